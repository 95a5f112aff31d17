/** `pisa-serve upscale`: the service's pipeline on files, in this process, with no queue. */
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import cliProgress from 'cli-progress';
import { settings } from '../config/settings.ts';
import type { Config } from '../config.ts';
import { AppError, expected, toAppError } from '../errors.ts';
import type { Progress } from '../jobs/job.ts';
import { pixelLimits } from '../jobs/output-size.ts';
import { resolveParams, type UpscaleQuery } from '../jobs/params.ts';
import { loadModel, type Model } from '../pipeline/model.ts';
import { asStartFault } from '../pipeline/session.ts';
import { upscale } from '../pipeline/upscale.ts';
import { deviceMemory } from '../worker/device-memory.ts';
import { executionProviderOf } from '../worker/device-process/loaded-models.ts';
import { type Existing, type FilePair, pairFiles, partialOf } from './file-pairs.ts';

export interface UpscaleFlags extends UpscaleQuery {
  device?: string;
  /** Replace output files that exist. */
  force?: boolean;
  /** Leave out photos whose output file exists. */
  skipExisting?: boolean;
}

/**
 * @param inputs files, folders or globs
 * @param output a file for one input file, else a folder
 * @returns how many files failed or were not begun; each is one line on stderr
 * @throws invalid_parameter when inputs and output do not fit together, or the output cannot be written
 * @throws invalid_bundle | device_unavailable | out_of_device_memory when the model cannot be loaded
 */
export async function upscaleFiles(
  config: Config,
  inputs: readonly string[],
  output: string,
  flags: UpscaleFlags,
): Promise<number> {
  const { device = config.DEVICES[0] ?? 'cpu', force, skipExisting, ...query } = flags;
  if (settings.DEVICES.parse(device)?.length !== 1) {
    throw new AppError('invalid_parameter', expected('cpu, webgpu or cuda:N', '--device', device));
  }
  const existing: Existing = force ? 'replaced' : skipExisting ? 'skipped' : 'refused';
  const pairs = await pairFiles(inputs, output, query.format, existing);
  if (pairs.length === 0) {
    process.stderr.write('Every output exists: nothing is left to do.\n');
    return 0;
  }
  const params = resolveParams(query, config.MODEL);
  const executionProvider = executionProviderOf(device);
  const model = await loadModel(path.join(config.MODELS_DIR, params.model), {
    executionProvider,
    threads: config.DEVICE_THREADS,
    memoryBytes: await deviceMemory(device, config),
  }).catch((error: unknown) => {
    throw asStartFault(error, executionProvider);
  });
  const abort = new AbortController();
  const stop = (): void => abort.abort(new AppError('canceled', 'Stopped by Ctrl-C.'));
  process.once('SIGINT', stop);
  try {
    return await upscalePairs(pairs, { model, device }, { ...params }, config, abort.signal);
  } finally {
    process.off('SIGINT', stop);
    await model.dispose();
    // A shell ends its loop only when the command has died of the signal, whatever its exit code.
    if (abort.signal.aborted) process.kill(process.pid, 'SIGINT');
  }
}

async function upscalePairs(
  pairs: readonly FilePair[],
  { model, device }: { model: Model; device: string },
  params: ReturnType<typeof resolveParams>,
  config: Config,
  signal: AbortSignal,
): Promise<number> {
  let failed = 0;
  for (const [index, pair] of pairs.entries()) {
    // The bar belongs to a terminal (cli-progress shows none elsewhere); the lines alone tell what happened.
    const bar = new cliProgress.SingleBar(
      { format: '{bar} {percentage}% {file} {stage}', hideCursor: true, clearOnComplete: true },
      cliProgress.Presets.shades_classic,
    );
    bar.start(100, 0, { file: path.basename(pair.lowRes), stage: '' });
    const onProgress = ({ stage, fraction }: Progress): void =>
      bar.update(Math.round(fraction * 100), { stage });
    try {
      const line = await upscaleFile(pair, model, params, config, signal, onProgress);
      bar.stop();
      process.stderr.write(`${line}\n`);
    } catch (error) {
      bar.stop();
      failed += 1;
      const { message, code, cause } = toAppError(error);
      // A GPU that had too little memory is as lost, see `GraphSession`.
      const isOfGpu = code === 'out_of_device_memory' && device !== 'cpu';
      if (code === 'device_lost' || isOfGpu) {
        tellOfLostDevice(pairs.slice(index), cause);
        return failed + pairs.length - index - 1;
      }
      process.stderr.write(`${pair.lowRes}: ${code === 'internal' ? String(error) : message}\n`);
      if (code === 'canceled') return failed;
    }
  }
  return failed;
}

/** Nobody starts this process again, and the device does nothing more for it. */
function tellOfLostDevice([met, ...left]: readonly FilePair[], cause: unknown): void {
  const reason = (cause instanceof Error ? cause.message : String(cause)).trim();
  const lines = [
    `${met?.lowRes}: The device failed (${reason}).`,
    ...left.map(({ lowRes }) => `${lowRes}: Not begun.`),
    `The device does nothing more for this process. Run the command again for the photos above alone. docs/devices.md says what to look for.`,
  ];
  process.stderr.write(`${lines.join('\n')}\n`);
}

/** @returns one line that says what was done */
async function upscaleFile(
  { lowRes, superRes, format }: FilePair,
  model: Model,
  params: ReturnType<typeof resolveParams>,
  config: Config,
  signal: AbortSignal,
  onProgress: (progress: Progress) => void,
): Promise<string> {
  const startedAt = performance.now();
  const { image, input, width, height } = await upscale(
    await readFile(lowRes),
    { ...params, format },
    {
      model,
      signal,
      limits: pixelLimits(config),
      onProgress,
    },
  );
  await writeWhole(superRes, image);
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(2);
  return `${lowRes} → ${superRes}  ${input.width}×${input.height} → ${width}×${height}  ${seconds} s`;
}

async function writeWhole(file: string, bytes: Uint8Array): Promise<void> {
  const partial = partialOf(file);
  try {
    await writeFile(partial, bytes);
    await rename(partial, file);
  } finally {
    await rm(partial, { force: true });
  }
}
