/** Tells whether the files of a bundle have changed, without reading them. */
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';

/**
 * @returns another text once a file of the folder has been written, replaced, added, removed or given other rights; empty
 *   when the folder cannot be read
 */
export async function bundleStamp(bundleDir: string): Promise<string> {
  const names = await readdir(bundleDir).catch(() => []);
  const facts = names.sort().map(async (name) => {
    const found = await stat(path.join(bundleDir, name)).catch(() => undefined);
    return [name, found?.ino, found?.size, found?.ctimeMs].join(' ');
  });
  return (await Promise.all(facts)).join('\n');
}
