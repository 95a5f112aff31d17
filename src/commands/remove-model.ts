/** `pisa-serve models remove`: a bundle leaves MODELS_DIR at once, and its files after it. */
import { randomUUID } from 'node:crypto';
import { rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';

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
  const manifest = await stat(path.join(folder, 'manifest.json')).catch(() => undefined);
  if (!manifest || path.basename(folder) !== name || name.startsWith('.')) {
    throw new AppError(
      'invalid_parameter',
      `${MODELS_DIR} has no bundle "${name}". \`pisa-serve models\` lists those that it has.`,
    );
  }
  const aside = path.join(MODELS_DIR, `.${name}.removed-${randomUUID()}`);
  await rename(folder, aside);
  await rm(aside, { recursive: true });
}
