/** `pisa-serve models remove`: a bundle leaves MODELS_DIR at once, and its files after it. */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import { discard, tidy } from './add-model/leftovers.ts';

/** @throws invalid_parameter */
export async function removeModel(
  { MODELS_DIR, MODEL }: Pick<Config, 'MODELS_DIR' | 'MODEL'>,
  name: string,
): Promise<void> {
  if (name === MODEL) {
    throw new AppError(
      'invalid_parameter',
      `${name} serves requests that name no model. Set MODEL to another bundle first.`,
    );
  }
  const folder = path.join(MODELS_DIR, name);
  const place = { modelsDir: MODELS_DIR, name };
  const isName = path.basename(folder) === name && !name.startsWith('.');
  // First, so that no older bundle is put back in the place of this one later.
  if (isName) await tidy(place);
  const manifest = await stat(path.join(folder, 'manifest.json')).catch(() => undefined);
  if (!manifest || !isName) {
    throw new AppError(
      'invalid_parameter',
      `${MODELS_DIR} has no bundle "${name}". \`pisa-serve models\` lists those that it has.`,
    );
  }
  await discard(folder, place);
}
