/** `pisa-serve models [verify]`: what bundles are there, and are they whole. */
import path from 'node:path';
import type { Config } from '../config.ts';
import { toAppError } from '../errors.ts';
import { bundleFiles, bundleSha256, listBundles, verifyBundle } from '../pipeline/manifest.ts';

export async function listModels(config: Config): Promise<void> {
  const bundles = await listBundles(config.MODELS_DIR);
  if (bundles.length === 0) {
    console.log(
      `No model bundle in ${config.MODELS_DIR}. Set MODELS_DIR to a folder that has one.`,
    );
    return;
  }
  for (const bundle of bundles) {
    const bytes = bundleFiles(bundle).reduce((sum, file) => sum + file.bytes, 0);
    const mark = bundle.name === config.MODEL ? '*' : ' ';
    console.log(
      `${mark} ${bundle.name} ${bundle.version}  ×${bundle.scale}  ${(bytes / 1e6).toFixed(1)} MB  ${bundle.license}`,
    );
    // What `models add --sha256` and the chart's models.download ask for.
    console.log(`    sha256 ${bundleSha256(bundle)}`);
  }
  console.log('* serves requests that name no model (setting MODEL)');
}

/** @returns how many bundles are damaged; each prints one line */
export async function verifyModels(config: Config, names: readonly string[]): Promise<number> {
  const wanted =
    names.length > 0 ? names : (await listBundles(config.MODELS_DIR)).map(({ name }) => name);
  let damaged = 0;
  for (const name of wanted) {
    try {
      await verifyBundle(path.join(config.MODELS_DIR, name));
      console.log(`${name}: ok`);
    } catch (error) {
      damaged += 1;
      console.error(`${name}: ${toAppError(error).message}`);
    }
  }
  return damaged;
}
