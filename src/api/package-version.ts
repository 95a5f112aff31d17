/** Name and version of this software, from package.json. */
import { readFileSync } from 'node:fs';
import path from 'node:path';

const { version, description } = JSON.parse(
  readFileSync(path.resolve(import.meta.dirname, '../../package.json'), 'utf8'),
) as { version: string; description: string };

export const serviceVersion = version;
export const serviceDescription = description;
