/** Runs helm and `admit` on the chart. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { parseAllDocuments } from 'yaml';
import type { KubernetesObject } from './kubernetes-api.ts';
import { tool } from './tools.ts';

const run = promisify(execFile);

export const chart = path.resolve(import.meta.dirname, '../../helm/pisa-serve');

/** The chart's own values and each example. */
export const valuesFiles = readdirSync(chart)
  .filter((name) => /^values(-[\w-]+)?\.yaml$/.test(name))
  .sort();

/** Without a cluster helm takes an old Kubernetes for granted; this is the one of tools/go.mod. */
export const forVersion = ['--kube-version', '1.36.0'];

/** @throws what helm prints, when it fails */
export const helm = (...args: string[]): Promise<string> => runHelm(args, {});

/**
 * Helm on a cluster.
 * @throws what helm prints, when it fails
 */
export const helmOn = (kubeconfig: string, ...args: string[]): Promise<string> =>
  runHelm(args, { KUBECONFIG: kubeconfig });

async function runHelm(args: string[], env: Record<string, string>): Promise<string> {
  const options = { maxBuffer: 64_000_000, env: { ...process.env, ...env } };
  const { stdout } = await run(tool('helm'), args, options);
  return stdout;
}

/** What the chart makes of values, as YAML. */
export const renderText = (...args: string[]): Promise<string> =>
  helm('template', 'up', chart, '--namespace', 'photos', ...forVersion, ...args);

export const parseObjects = (yaml: string): KubernetesObject[] =>
  parseAllDocuments(yaml)
    .map((document) => document.toJS() as KubernetesObject | null)
    .filter((object) => object !== null);

export const render = async (...args: string[]): Promise<KubernetesObject[]> =>
  parseObjects(await renderText(...args));

/** What `helm install` prints. Helm shows notes on a cluster only, so a copy of the chart has them in a ConfigMap. */
export async function renderNotes(...args: string[]): Promise<string> {
  const folder = mkdtempSync(path.join(tmpdir(), 'pisa-notes-'));
  try {
    cpSync(chart, folder, { recursive: true });
    renameSync(path.join(folder, 'templates/NOTES.txt'), path.join(folder, 'files/NOTES.txt'));
    writeFileSync(
      path.join(folder, 'templates/notes.yaml'),
      'kind: ConfigMap\ndata: { notes: {{ tpl (.Files.Get "files/NOTES.txt") . | toJson }} }\n',
    );
    const only = ['--show-only', 'templates/notes.yaml'];
    const yaml = await helm('template', 'up', folder, ...forVersion, ...only, ...args);
    return parseObjects(yaml)[0]?.data?.notes ?? '';
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** What `admit` says of objects: faults, one a line, or how many objects are accepted. */
export async function admit(yaml: string, definitions: string[]): Promise<string> {
  const child = spawn(tool('admit'), definitions, { stdio: ['pipe', 'pipe', 'inherit'] });
  child.stdin.end(yaml);
  const [said, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  if (code === 0 || code === 1) return said.trim();
  throw new Error(`admit ended with ${code}`);
}
