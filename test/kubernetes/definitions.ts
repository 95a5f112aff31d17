/** Custom resource definitions, from KEDA's and the Prometheus operator's own modules. */
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

const keda = 'github.com/kedacore/keda/v2';
const kedaFolder = 'config/crd/bases';
const operator = 'github.com/prometheus-operator/prometheus-operator';

/** Of the kinds that the chart makes. */
const ofChart: Record<string, string[]> = {
  [keda]: ['keda.sh_scaledobjects.yaml', 'keda.sh_triggerauthentications.yaml'].map(
    (name) => `${kedaFolder}/${name}`,
  ),
  [operator]: ['servicemonitors', 'podmonitors', 'prometheusrules'].map(
    (name) => `example/prometheus-operator-crd/monitoring.coreos.com_${name}.yaml`,
  ),
};

/** A module's files, in the version of crds/go.mod, which Go checks by crds/go.sum. */
async function moduleFolder(module: string): Promise<string> {
  const cwd = path.join(import.meta.dirname, 'crds');
  const { stdout } = await run('go', ['mod', 'download', '-json', module], { cwd });
  return (JSON.parse(stdout) as { Dir: string }).Dir;
}

/** Files of the definitions of all kinds that the chart makes. */
export async function definitionFiles(): Promise<string[]> {
  const lists = Object.entries(ofChart).map(async ([module, files]) => {
    const folder = await moduleFolder(module);
    return files.map((file) => path.join(folder, file));
  });
  return (await Promise.all(lists)).flat();
}

/** Files of all definitions of KEDA, which its operator waits for. */
export async function kedaDefinitionFiles(): Promise<string[]> {
  const folder = path.join(await moduleFolder(keda), kedaFolder);
  return readdirSync(folder).map((name) => path.join(folder, name));
}
