/** What this package is: read once from its package.json. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** Above `dist`, or wherever else this has been compiled to. */
export const packageRoot = rootAbove(import.meta.dirname);

const manifest = JSON.parse(readFileSync(path.join(packageRoot, 'package.json'), 'utf8')) as {
  version: string;
  description: string;
};

export const { version, description } = manifest;

/** Name and version, as output images and their XMP name what made them. */
export const software = `pisa-serve ${version}`;

function rootAbove(folder: string): string {
  const above = path.dirname(folder);
  if (above === folder) throw new Error('There is no package.json above this program.');
  return existsSync(path.join(above, 'package.json')) ? above : rootAbove(above);
}
