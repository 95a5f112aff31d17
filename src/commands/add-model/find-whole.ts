/** Which bundles are in MODELS_DIR already, whole. Nothing here needs the source, the lock, or leave to write. */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import {
  bundleSha256,
  loadManifest,
  type Manifest,
  verifyBundle,
} from '../../pipeline/manifest.ts';

/** The bundle of a digest in a folder of bundles; nothing when none has it, or when a file of it is wrong. */
export async function findWhole(modelsDir: string, sha256: string): Promise<Manifest | undefined> {
  for (const name of await readdir(modelsDir).catch(() => [])) {
    const whole = await readWhole(path.join(modelsDir, name), sha256);
    if (whole) return whole;
  }
  return undefined;
}

/** The bundle in a folder, if it has the digest and every file of it is right. Reads the files of no other. */
export async function readWhole(bundleDir: string, sha256: string): Promise<Manifest | undefined> {
  const isIt = (manifest: Manifest | undefined) =>
    manifest !== undefined && bundleSha256(manifest) === sha256;
  if (!isIt(await loadManifest(bundleDir).catch(() => undefined))) return undefined;
  // Read anew: another bundle may have taken its place in between.
  const whole = await verifyBundle(bundleDir).catch(() => undefined);
  return isIt(whole) ? whole : undefined;
}
