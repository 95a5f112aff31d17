// Runs a graph on the CPU in a process that gets hardly any more memory, and prints the fault. Its arguments: the folder of
// the compiled service, that of the bundle `blur`, and whether the session keeps the memory of its runs.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

const [build, bundle, keeps] = process.argv.slice(2);
const { GraphSession } = await import(`${build}/pipeline/session.js`);

const edge = 768;
const dims = [1, 48, edge, edge];
// 113 MB each; the graph takes as much again, and more.
const values = () => ({ data: new Float32Array(48 * edge * edge), dims });
const feeds = { latents: values(), semantic: { data: Float32Array.of(1), dims: [1] } };
const outputs = { residual: values() };
const session = await GraphSession.open(
  {
    file: `${bundle}/unet.onnx`,
    dtype: 'float32',
    inputs: { latents: [null, 48, null, null], semantic: [null] },
    outputs: { residual: [null, 48, null, null] },
  },
  { executionProvider: 'cpu', threads: 1, keepsMemory: keeps === 'true' },
);
const [, kilobytes] = /VmSize:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'));
const most = 1024 * Number(kilobytes) + 64_000_000;
execFileSync('prlimit', [`--pid=${process.pid}`, `--as=${most}:`]);
const fault = await session.run(feeds, outputs).then(
  () => ({}),
  ({ code, message, cause }) => ({ code, message, cause: cause?.message }),
);
process.stdout.write(JSON.stringify(fault), () => process.exit(0));
