/** Which files `pisa-serve upscale` reads and writes: decided, and tried, before any work. */
import { access, constants, mkdir, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { glob, isDynamicPattern } from 'tinyglobby';
import { AppError } from '../errors.ts';
import { type OutputFormat, outputFormats, upscaleDefaults } from '../jobs/params.ts';

export interface FilePair {
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

/** What becomes of output files that exist. */
export type Existing = 'refused' | 'replaced' | 'skipped';

/** Beside the target, and renamed once it is whole, so that a stopped run leaves no half image. */
export const partialOf = (file: string): string => `${file}.${process.pid}.partial`;

/**
 * @param inputs files, folders or globs
 * @param output a file for one input file, else a folder, which is made
 * @returns without those that are skipped
 * @throws invalid_parameter when inputs and output do not fit together, or an output cannot be written
 */
export async function pairFiles(
  inputs: readonly string[],
  output: string,
  format: OutputFormat | undefined,
  existing: Existing,
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
    const pairs = await checkTargets([pair], existing);
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
    existing,
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

async function checkTargets(pairs: FilePair[], existing: Existing): Promise<FilePair[]> {
  const seen = new Map<string, string>();
  const toDo: FilePair[] = [];
  for (const pair of pairs) {
    const { lowRes, superRes } = pair;
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
    const isThere = await exists(superRes);
    if (isThere && existing === 'refused') {
      throw new AppError(
        'invalid_parameter',
        `${superRes} exists. Give --force to replace it, or --skip-existing to keep it and upscale the others.`,
      );
    }
    if (!isThere || existing === 'replaced') toDo.push(pair);
  }
  return toDo;
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
