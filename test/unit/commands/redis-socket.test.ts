/** The folder under /tmp that holds the private Redis's socket where DATA_DIR is too deep: ours alone, or no start. */
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { redisSocketPath } from '../../../src/commands/redis-socket.ts';

const deep = path.join('/data', `${process.pid}-${'x'.repeat(100)}`, 'redis');
const made = new Set<string>();

afterEach(() => {
  vi.restoreAllMocks();
  for (const folder of made) rmSync(folder, { recursive: true, force: true });
  made.clear();
});

/** The folder that is used, there or not. */
function shortFolder(): string {
  const folder = path.dirname(redisSocketPath(deep));
  made.add(folder);
  return folder;
}

const refused = (words: string) =>
  expect.objectContaining({
    code: 'not_ready',
    message: expect.stringMatching(new RegExp(`/tmp/pisa-serve-.*${words}.*Remove it, .*DATA_DIR`)),
  });

test('a short path is taken as it is', () => {
  expect(redisSocketPath('/data/redis')).toBe('/data/redis/redis.sock');
});

test('the folder is made for us alone, and taken again', () => {
  const folder = shortFolder();
  expect(folder).toMatch(/^\/tmp\/pisa-serve-\d+-[0-9a-f]{16}$/);
  expect(lstatSync(folder).mode & 0o777).toBe(0o700);
  expect(redisSocketPath(deep)).toBe(path.join(folder, 'redis.sock'));
});

test.each(['710', '701', '755', '777'])('one with mode %s is refused', (mode) => {
  const folder = shortFolder();
  chmodSync(folder, Number.parseInt(mode, 8));
  expect(() => redisSocketPath(deep)).toThrow(refused(`mode ${mode}`));
  chmodSync(folder, 0o700);
  expect(redisSocketPath(deep)).toBe(path.join(folder, 'redis.sock'));
});

test.each<[string, (folder: string) => void]>([
  ['a file', (folder) => writeFileSync(folder, '')],
  ['a link that leads nowhere', (folder) => symlinkSync('/nowhere/at/all', folder)],
  [
    'a link to a folder of ours',
    (folder) => {
      made.add(`${folder}-target`);
      mkdirSync(`${folder}-target`, { mode: 0o700 });
      symlinkSync(`${folder}-target`, folder);
    },
  ],
])('%s in its place is refused', (_what, put) => {
  const folder = shortFolder();
  rmSync(folder, { recursive: true });
  put(folder);
  expect(() => redisSocketPath(deep)).toThrow(refused('is not a folder'));
  expect(existsSync('/nowhere/at/all')).toBe(false);
});

test('one of another user is refused', () => {
  const us = process.geteuid?.() ?? 0;
  // The folder is made by the process, for somebody else.
  made.add(shortFolder().replace(/\d+/, String(us + 1)));
  vi.spyOn(process, 'geteuid').mockReturnValue(us + 1);
  expect(() => redisSocketPath(deep)).toThrow(
    refused(`belongs to user ${us}, not to user ${us + 1}`),
  );
});
