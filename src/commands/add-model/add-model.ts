/**
 * `pisa-serve models add`: a bundle from a folder or a URL into MODELS_DIR. It is made beside its place under a hidden
 * name, checked file by file, and moved there when it is whole; a run that is killed leaves what the next one goes on
 * with, and nothing that is ever loaded.
 */
import { mkdir, open, readdir, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Config } from '../../config.ts';
import { noSpaceCodes, systemErrorName } from '../../disk-errors.ts';
import { AppError } from '../../errors.ts';
import {
  type BundleFile,
  bundleFiles,
  bundleSha256,
  loadManifest,
  type Manifest,
  parseManifest,
  sha256Of,
} from '../../pipeline/manifest.ts';
import { findWhole, readWhole } from './find-whole.ts';
import {
  discard,
  lockOf,
  type Place,
  partialFolder,
  putBack,
  replacedFolder,
  sweepDiscarded,
  tidy,
} from './leftovers.ts';
import { withLock } from './lock.ts';
import { type BundleSource, FolderSource } from './source.ts';
import { UrlSource } from './url-source.ts';

export interface AddFlags {
  /** Replace a bundle of the same name. */
  replace?: boolean;
  /** Also from other machines. */
  plainHttp?: boolean;
  /** What the bundle must be, as `GET /models` and this command show it. Where it is there, nothing is fetched. */
  sha256?: string;
}

interface Work {
  readonly source: BundleSource;
  readonly manifest: Manifest;
  /** As it came. */
  readonly text: string;
  readonly modelsDir: string;
  readonly say: (line: string) => void;
}

/**
 * @param from a folder, or an https:// URL of one
 * @param say told what happens, a line each
 * @throws invalid_parameter | invalid_bundle | bundle_not_added
 */
export async function addModel(
  { MODELS_DIR: modelsDir, MODEL }: Pick<Config, 'MODELS_DIR' | 'MODEL'>,
  from: string,
  flags: AddFlags,
  say: (line: string) => void,
): Promise<void> {
  const source = /^[a-z]+:\/\//i.test(from)
    ? new UrlSource(from, flags.plainHttp ?? false)
    : new FolderSource(path.resolve(from));
  const wanted = flags.sha256?.toLowerCase();
  const there = wanted === undefined ? undefined : await findWhole(modelsDir, wanted);
  if (there) {
    await tidyIfAllowed({ modelsDir, name: there.name });
    say(`${there.name} ${there.version} was already in ${modelsDir}, sha256 ${wanted}.`);
    return;
  }
  const text = await source.manifest();
  const manifest = parseManifest(text, `${source.where}/manifest.json`);
  const { name, version } = manifest;
  const sha256 = bundleSha256(manifest);
  if (wanted !== undefined && wanted !== sha256) {
    throw new AppError(
      'invalid_bundle',
      `${source.where} is the bundle ${name} ${version} with sha256 ${sha256}, not the one that --sha256 names.`,
    );
  }
  const work = { source, manifest, text, modelsDir, say };
  try {
    await mkdir(modelsDir, { recursive: true });
    const added = await addOnce(work, flags.replace ?? false);
    say(`${name} ${version} ${added ? 'is in' : 'was already in'} ${modelsDir}, sha256 ${sha256}.`);
    if (added && name !== MODEL) {
      say(
        `Workers see it when they start again: name it in requests (model=${name}), or set MODEL.`,
      );
    }
  } catch (error) {
    throw explained(error, modelsDir);
  }
}

/**
 * Adds the bundle unless it is there. What is there is read without the lock: it may be gigabytes, which workers that
 * start at once on a shared volume would else read one after the other.
 * @returns false when it was there already
 */
async function addOnce(work: Work, replace: boolean): Promise<boolean> {
  const { manifest, modelsDir, say } = work;
  const target = path.join(modelsDir, manifest.name);
  const place = placeOf(work);
  const waits = () => say(`Another process is adding ${manifest.name}; waiting for it.`);
  for (;;) {
    const before = await identityOf(target);
    if (await readWhole(target, bundleSha256(manifest))) {
      await tidyIfAllowed(place);
      return false;
    }
    const added = await withLock(lockOf(place), waits, async () => {
      // What was put there since then may be the bundle: read that first.
      if (await putBack(place)) {
        say(`A run that was killed had taken ${target} away: it is back in its place.`);
      }
      if ((await identityOf(target)) !== before) return false;
      await addLocked(work, replace).catch(async (error: unknown) => {
        if (isOfFullDisk(error)) await leaveNothing(place);
        throw error;
      });
      return true;
    });
    if (added) return true;
  }
}

const placeOf = ({ modelsDir, manifest }: Work): Place => ({ modelsDir, name: manifest.name });

/** Who may only read finds the bundle all the same. */
const tidyIfAllowed = (place: Place): Promise<void> => tidy(place).catch(() => undefined);

/** Another one when another folder has taken the place. */
async function identityOf(folder: string): Promise<string | undefined> {
  const facts = await stat(folder).catch(() => undefined);
  return facts && `${facts.ino} ${facts.mtimeMs}`;
}

/** Makes the bundle and puts it in its place, which does not hold it whole. */
async function addLocked(work: Work, replace: boolean): Promise<void> {
  const { manifest, modelsDir, text } = work;
  const target = path.join(modelsDir, manifest.name);
  const holds = await checkTarget(work, target, replace);
  const place = placeOf(work);
  const partial = partialFolder(place);
  const made = path.join(partial, bundleSha256(manifest).slice(0, 16));
  await mkdir(made, { recursive: true });
  // What an earlier run fetched of another version is of no use.
  for (const other of await readdir(partial)) {
    if (other !== path.basename(made)) await discard(path.join(partial, other), place);
  }
  await sweepDiscarded(place);
  await checkSpace(work, made);
  for (const entry of bundleFiles(manifest)) await addFile(work, entry, made);
  await writeFile(path.join(made, 'manifest.json'), text, { flush: true });
  if (holds === 'bundle') {
    const old = replacedFolder(place);
    await rename(target, old);
    // Back, if the new one cannot take its place.
    await rename(made, target).catch(async (error: unknown) => {
      await rename(old, target);
      throw error;
    });
  } else await rename(made, target);
  await discard(partial, place);
}

/** A disk that is full is left as it was found. */
async function leaveNothing(place: Place): Promise<void> {
  await putBack(place);
  await rm(partialFolder(place), { recursive: true, force: true });
}

/**
 * What is in the place of the bundle, other than the bundle whole.
 * @throws invalid_parameter when it may not be replaced
 */
async function checkTarget(
  { manifest, say }: Work,
  target: string,
  replace: boolean,
): Promise<'nothing' | 'bundle'> {
  if (!(await stat(target).catch(() => undefined))) return 'nothing';
  const there = await stat(path.join(target, 'manifest.json')).catch(() => undefined);
  if (!there) {
    throw new AppError(
      'invalid_parameter',
      `${target} exists and is no model bundle, so it is not replaced. Move it away, or set another MODELS_DIR.`,
    );
  }
  const found = await loadManifest(target).catch(() => undefined);
  if (found && bundleSha256(found) === bundleSha256(manifest)) {
    say(`${target} holds this bundle, but damaged: it is fetched again.`);
    return 'bundle';
  }
  if (replace) return 'bundle';
  const holds = found ? `${found.name} ${found.version}` : 'a damaged bundle';
  const { name, version } = manifest;
  const other = found?.version === version ? `another ${version} of ${name}` : `${name} ${version}`;
  throw new AppError(
    'invalid_parameter',
    `${target} holds ${holds}, and this is ${other}. Give --replace to replace it.`,
  );
}

async function checkSpace({ manifest, modelsDir }: Work, made: string): Promise<void> {
  let needed = 0;
  for (const { file, bytes } of bundleFiles(manifest)) {
    const there = await Promise.all(
      [file, `${file}.part`].map((name) => stat(path.join(made, name)).catch(() => undefined)),
    );
    needed += Math.max(0, bytes - there.reduce((sum, facts) => sum + (facts?.size ?? 0), 0));
  }
  const { bavail, bsize } = await statfs(modelsDir);
  if (needed <= bavail * bsize) return;
  const gigabytes = (value: number) => `${(value / 1e9).toFixed(2)} GB`;
  throw new AppError(
    'bundle_not_added',
    `${gigabytes(needed)} are needed in ${modelsDir} but ${gigabytes(bavail * bsize)} are free. Free space, or set another MODELS_DIR.`,
  );
}

/** Fetches a file unless it is there, whole. */
async function addFile(work: Work, entry: BundleFile, made: string): Promise<void> {
  const { source, say } = work;
  const { file, bytes, sha256 } = entry;
  const done = path.join(made, file);
  const part = `${done}.part`;
  if ((await stat(done).catch(() => undefined))?.size === bytes) {
    if ((await sha256Of(done)) === sha256) return;
  }
  await rm(done, { force: true });
  const begun = source.resumes ? ((await stat(part).catch(() => undefined))?.size ?? 0) : 0;
  if (begun > 0) say(`${file}: going on after ${megabytes(begun)} of ${megabytes(bytes)}`);
  else say(`${file}: ${megabytes(bytes)}`);
  await source.fetch(entry, part);
  if ((await sha256Of(part)) !== sha256) {
    await rm(part);
    // The beginning may have been of another file.
    if (begun > 0) return addFile(work, entry, made);
    throw new AppError(
      'invalid_bundle',
      `${source.where}: ${file} has another sha256 than the manifest says: it was damaged on the way or at its source. Run the command again; if that does not help, export the bundle again.`,
    );
  }
  const handle = await open(part, 'r+');
  await handle.sync().finally(() => handle.close());
  await rename(part, done);
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

const isOfFullDisk = (error: unknown): boolean => noSpaceCodes.has(systemErrorName(error));

/** A fault of the disk in words. */
function explained(error: unknown, modelsDir: string): unknown {
  const { syscall, message } = error as NodeJS.ErrnoException;
  const name = systemErrorName(error);
  if (name === '' || syscall === undefined) return error;
  return new AppError(
    'bundle_not_added',
    isOfFullDisk(error)
      ? `The disk of ${modelsDir} is full (${name}). Free space, or set another MODELS_DIR.`
      : `${modelsDir} cannot be written (${message}). Run as a user who may, or set another MODELS_DIR.`,
    { cause: error },
  );
}
