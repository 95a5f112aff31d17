/** Runs the programs of scripts/kubernetes-tools.sh on the chart. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { parseAllDocuments } from 'yaml';

const run = promisify(execFile);

export const chart = path.resolve(import.meta.dirname, '../../helm/pisa-serve');

/** The chart's own values and each example. */
export const valuesFiles = readdirSync(chart)
  .filter((name) => /^values(-[\w-]+)?\.yaml$/.test(name))
  .sort();

/** Without a cluster helm takes an old Kubernetes for granted; this is the one of tools/go.mod. */
export const forVersion = ['--kube-version', '1.36.0'];

/** An object of Kubernetes, of any kind. */
export interface KubernetesObject {
  kind: string;
  metadata: { name: string; labels?: Record<string, string> };
  // biome-ignore lint/suspicious/noExplicitAny: every kind has its own, and `admit` checks it.
  spec?: any;
  data?: Record<string, string>;
}

function tool(name: string): string {
  const folder = process.env.KUBERNETES_TOOLS;
  if (folder) return path.join(folder, name);
  throw new Error(
    'KUBERNETES_TOOLS is not set: run `make test-kubernetes`, which builds the tools.',
  );
}

/** @throws what helm prints, when it fails */
export async function helm(...args: string[]): Promise<string> {
  const { stdout } = await run(tool('helm'), args, { maxBuffer: 64_000_000 });
  return stdout;
}

/** What the chart makes of values, as YAML. */
export const renderText = (...args: string[]): Promise<string> =>
  helm('template', 'up', chart, '--namespace', 'photos', ...forVersion, ...args);

const parseObjects = (yaml: string): KubernetesObject[] =>
  parseAllDocuments(yaml)
    .map((document) => document.toJS() as KubernetesObject | null)
    .filter((object) => object !== null);

export const render = async (...args: string[]): Promise<KubernetesObject[]> =>
  parseObjects(await renderText(...args));

const definitions: Record<string, string[]> = {
  'github.com/kedacore/keda/v2': [
    'config/crd/bases/keda.sh_scaledobjects.yaml',
    'config/crd/bases/keda.sh_triggerauthentications.yaml',
  ],
  'github.com/prometheus-operator/prometheus-operator': [
    'example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml',
    'example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml',
    'example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml',
  ],
};

/** Files of the definitions, from the modules at the versions of crds/go.mod, which Go checks by crds/go.sum. */
export async function definitionFiles(): Promise<string[]> {
  const cwd = path.join(import.meta.dirname, 'crds');
  const folders = Object.entries(definitions).map(async ([module, files]) => {
    const { stdout } = await run('go', ['mod', 'download', '-json', module], { cwd });
    const { Dir } = JSON.parse(stdout) as { Dir: string };
    return files.map((file) => path.join(Dir, file));
  });
  return (await Promise.all(folders)).flat();
}

/** What `admit` says of objects: faults, one a line, or how many objects are accepted. */
export async function admit(yaml: string, definitions: string[]): Promise<string> {
  const child = spawn(tool('admit'), definitions, { stdio: ['pipe', 'pipe', 'inherit'] });
  child.stdin.end(yaml);
  const [said, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  if (code === 0 || code === 1) return said.trim();
  throw new Error(`admit ended with ${code}`);
}
