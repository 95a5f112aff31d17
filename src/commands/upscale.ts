/** `pisa-serve upscale`: the service's pipeline on files, in this process, with no queue. */
import { access, constants, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import cliProgress from 'cli-progress';
import { glob, isDynamicPattern } from 'tinyglobby';
import { type Config, settings } from '../config.ts';
import { AppError, expected, toAppError } from '../errors.ts';
import type { Progress } from '../jobs/job.ts';
import {
  type OutputFormat,
  outputFormats,
  resolveParams,
  type UpscaleQuery,
  upscaleDefaults,
} from '../jobs/params.ts';
import { loadModel, type Model } from '../pipeline/model.ts';
import { upscale } from '../pipeline/upscale.ts';
import { deviceMemory } from '../worker/device-memory.ts';
import { executionProviderOf } from '../worker/loaded-models.ts';

export interface UpscaleFlags extends UpscaleQuery {
  device?: string;
  /** Replace output files that exist. */
  force?: boolean;
}

interface FilePair {
  lowRes: string;
  superRes: string;
  format: OutputFormat;
}

const formatOfExtension: Record<string, OutputFormat> = {
  '.png': 'png',
  '.jpg': 'jpeg',
  '.jpeg': 'jpeg',
  '.webp': 'webp',
  '.avif': 'avif',
};
const inputPattern = '*.{png,jpg,jpeg,webp,avif,tif,tiff}';

/**
 * @param inputs files, folders or globs
 * @param output a file for one input file, else a folder
 * @returns how many files failed; each failure is one line on stderr
 * @throws invalid_parameter when inputs and output do not fit together, or the output cannot be written
 */
export async function upscaleFiles(
  config: Config,
  inputs: readonly string[],
  output: string,
  flags: UpscaleFlags,
): Promise<number> {
  const { device = config.DEVICES[0] ?? 'cpu', force = false, ...query } = flags;
  if (settings.DEVICES.parse(device)?.length !== 1) {
    throw new AppError('invalid_parameter', expected('cpu, webgpu or cuda:N', '--device', device));
  }
  const pairs = await pairFiles(inputs, output, query.format, force);
  const params = resolveParams(query, config.MODEL);
  const model = await loadModel(path.join(config.MODELS_DIR, params.model), {
    executionProvider: executionProviderOf(device),
    threads: config.DEVICE_THREADS,
    memoryBytes: await deviceMemory(device, config),
  });
  const abort = new AbortController();
  const stop = (): void => abort.abort(new AppError('canceled', 'Stopped by Ctrl-C.'));
  process.once('SIGINT', stop);
  try {
    return await upscalePairs(pairs, model, { ...params }, config, abort.signal);
  } finally {
    process.off('SIGINT', stop);
    await model.dispose();
    // A shell ends its loop only when the command has died of the signal, whatever its exit code.
    if (abort.signal.aborted) process.kill(process.pid, 'SIGINT');
  }
}

async function upscalePairs(
  pairs: readonly FilePair[],
  model: Model,
  params: ReturnType<typeof resolveParams>,
  config: Config,
  signal: AbortSignal,
): Promise<number> {
  let failed = 0;
  for (const pair of pairs) {
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
      const { message, code } = toAppError(error);
      process.stderr.write(`${pair.lowRes}: ${code === 'internal' ? String(error) : message}\n`);
      if (code === 'canceled') return failed;
    }
  }
  return failed;
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
      limits: {
        maxInputPixels: config.MAX_INPUT_PIXELS,
        maxOutputPixels: config.MAX_OUTPUT_PIXELS,
      },
      onProgress,
    },
  );
  await writeWhole(superRes, image);
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(2);
  return `${lowRes} → ${superRes}  ${input.width}×${input.height} → ${width}×${height}  ${seconds} s`;
}

/** Beside the target, and renamed once it is whole, so that a stopped run leaves no half image. */
const partialOf = (file: string): string => `${file}.${process.pid}.partial`;

async function writeWhole(file: string, bytes: Uint8Array): Promise<void> {
  const partial = partialOf(file);
  try {
    await writeFile(partial, bytes);
    await rename(partial, file);
  } finally {
    await rm(partial, { force: true });
  }
}

async function pairFiles(
  inputs: readonly string[],
  output: string,
  format: OutputFormat | undefined,
  force: boolean,
): Promise<FilePair[]> {
  if ([...inputs, output].includes('-')) {
    throw new AppError(
      'invalid_parameter',
      'Standard input and output (-) cannot be used: name a photo, and a file or folder for the output.',
    );
  }
  const expanded = await Promise.all(inputs.map(expandInput));
  const files = [...new Set(expanded.flat())];
  if (files.length === 0) {
    throw new AppError('invalid_parameter', `No image matches ${inputs.join(', ')}.`);
  }
  const extension = path.extname(output).toLowerCase();
  const outputIsFolder =
    (await isFolder(output)) || output.endsWith(path.sep) || extension === '' || files.length > 1;
  if (!outputIsFolder) {
    const named = formatOfExtension[extension];
    if (!named && !format) {
      throw new AppError(
        'invalid_parameter',
        `The ending of ${output} names no output format. Use .png, .jpg, .webp or .avif, or give --format ${outputFormats.join('|')}.`,
      );
    }
    const pair = {
      lowRes: files[0] ?? '',
      superRes: output,
      format: format ?? named ?? upscaleDefaults.format,
    };
    const pairs = await checkTargets([pair], force);
    await makeFolder(path.dirname(output));
    await tryOutputs(pairs);
    return pairs;
  }
  if (formatOfExtension[extension] && !(await isFolder(output))) {
    throw new AppError(
      'invalid_parameter',
      `${files.length} images cannot go into the one file ${output}. Name a folder.`,
    );
  }
  await makeFolder(output);
  const chosen = format ?? upscaleDefaults.format;
  const ending = chosen === 'jpeg' ? 'jpg' : chosen;
  const pairs = await checkTargets(
    files.map((lowRes) => ({
      lowRes,
      superRes: path.join(output, `${path.parse(lowRes).name}.${ending}`),
      format: chosen,
    })),
    force,
  );
  await tryOutputs(pairs);
  return pairs;
}

/**
 * Before any work, which would be lost.
 * @throws invalid_parameter when there can be no such folder, or nothing can be written into it
 */
async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
    await access(folder, constants.W_OK | constants.X_OK);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw new AppError(
      'invalid_parameter',
      `Nothing can be written into the folder ${folder} (${code}). Name another output.`,
      { cause },
    );
  }
}

/**
 * The folder may be there and the file still impossible: a name that is too long, a file system that takes no files.
 * @throws invalid_parameter
 */
async function tryOutputs(pairs: readonly FilePair[]): Promise<void> {
  for (const { superRes } of pairs) {
    const partial = partialOf(superRes);
    try {
      await writeFile(partial, '');
      await rm(partial);
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code ?? String(cause);
      throw new AppError(
        'invalid_parameter',
        `The output ${superRes} cannot be written (${code}). Name another one.`,
        { cause },
      );
    }
  }
}

async function checkTargets(pairs: FilePair[], force: boolean): Promise<FilePair[]> {
  const seen = new Map<string, string>();
  for (const { lowRes, superRes } of pairs) {
    const target = path.resolve(superRes);
    const other = seen.get(target);
    if (other) {
      throw new AppError(
        'invalid_parameter',
        `${other} and ${lowRes} would both become ${superRes}. Upscale them into different folders.`,
      );
    }
    seen.set(target, lowRes);
    if (path.resolve(lowRes) === target) {
      throw new AppError(
        'invalid_parameter',
        `${superRes} is the input itself. Name another output.`,
      );
    }
    if (await isFolder(superRes)) {
      throw new AppError('invalid_parameter', `${superRes} is a folder. Name another output.`);
    }
    if (!force && (await exists(superRes))) {
      throw new AppError('invalid_parameter', `${superRes} exists. Give --force to replace it.`);
    }
  }
  return pairs;
}

async function expandInput(input: string): Promise<string[]> {
  if (await isFolder(input)) {
    const found = await glob(inputPattern, { cwd: input, caseSensitiveMatch: false });
    return found.sort().map((file) => path.join(input, file));
  }
  if (await exists(input)) return [input];
  if (isDynamicPattern(input)) return (await glob(input, { caseSensitiveMatch: false })).sort();
  throw new AppError('invalid_parameter', `There is no file ${input}.`);
}

const exists = (file: string): Promise<boolean> =>
  stat(file).then(
    () => true,
    () => false,
  );
const isFolder = (file: string): Promise<boolean> =>
  stat(file).then(
    (found) => found.isDirectory(),
    () => false,
  );
