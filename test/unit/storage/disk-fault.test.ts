/** A folder whose disk is full, read-only, closed to us, broken or out of reach. The disk of a test is none of these: its calls are replaced. */
import * as fs from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import path from 'node:path';
import { getSystemErrorName } from 'node:util';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { orUnavailable } from '../../../src/jobs/redis-faults.ts';
import { FolderStore } from '../../../src/storage/folder-store.ts';

vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof fs>();
  const replaceable = { open: real.open, rm: real.rm, stat: real.stat, writeFile: real.writeFile };
  const spied = Object.entries(replaceable).map(([name, call]) => [name, vi.fn(call as never)]);
  return { ...real, ...Object.fromEntries(spied) };
});

const key = 'output/7f0b7d1c-0000-4000-8000-000000000000';
const bytes = Buffer.from('an image');
let folder: string;
let store: FolderStore;

beforeEach(async () => {
  folder = await fs.mkdtemp(path.join(tmpdir(), 'pisa-disk-'));
  store = new FolderStore(folder, { sweep: false });
});
afterEach(async () => {
  vi.resetAllMocks();
  await store.close();
  await fs.rm(folder, { recursive: true, force: true });
});

/** As Node words it, which has no name for some. */
function fault(name: keyof typeof constants.errno): Error {
  const errno = -constants.errno[name];
  const code = getSystemErrorName(errno);
  return Object.assign(new Error(`${code}: of the disk`), { code, errno });
}
const failOnce = (call: unknown, error: Error) =>
  vi.mocked(call as typeof fs.stat).mockRejectedValueOnce(error);

test.each<[keyof typeof constants.errno, RegExp]>([
  ['ENOSPC', /is full \(ENOSPC\).*free space/],
  ['EDQUOT', /is full \(EDQUOT\)/],
  ['EROFS', /cannot be read or written \(EROFS\).*mount and permissions/],
  ['EACCES', /cannot be read or written \(EACCES\)/],
  ['EPERM', /cannot be read or written \(EPERM\)/],
  ['EIO', /cannot be read or written \(EIO\)/],
  ['ESTALE', /cannot be read or written \(ESTALE\)/],
  ['ETIMEDOUT', /cannot be read or written \(ETIMEDOUT\)/],
  ['ENOTCONN', /cannot be read or written \(ENOTCONN\)/],
  ['EMFILE', /No more files can be opened.*\(EMFILE\).*limit of open files/],
])('%s is storage_unavailable, in words, with the cause for the log', async (code, words) => {
  const cause = fault(code);
  const unavailable = {
    code: 'storage_unavailable',
    status: 503,
    retryable: true,
    retryAfterSeconds: 30,
    message: expect.stringMatching(words),
    cause,
  };
  failOnce(fs.writeFile, cause);
  await expect(store.put(key, bytes, 60)).rejects.toMatchObject(unavailable);
  failOnce(fs.open, cause);
  await expect(store.get(key)).rejects.toMatchObject(unavailable);
  failOnce(fs.open, cause);
  await expect(store.stream(key)).rejects.toMatchObject(unavailable);
  failOnce(fs.stat, cause);
  await expect(store.has(key)).rejects.toMatchObject(unavailable);
  failOnce(fs.rm, cause);
  await expect(store.delete(key)).rejects.toMatchObject(unavailable);

  await store.put(key, bytes, 60);
  expect(await store.get(key)).toEqual(bytes);
});

test('a file whose facts cannot be read is a fault, and no image that has gone', async () => {
  const close = vi.fn(async () => {});
  const handle = { stat: () => Promise.reject(fault('EIO')), close };
  vi.mocked(fs.open).mockResolvedValueOnce(handle as unknown as fs.FileHandle);
  await expect(store.get(key)).rejects.toMatchObject({ code: 'storage_unavailable' });
  expect(close).toHaveBeenCalledOnce();
});

test('a folder that goes while it is written to is a fault, and no object that is missing', async () => {
  const cause = fault('ENOENT');
  failOnce(fs.writeFile, cause);
  const stored = orUnavailable(() => store.put(key, bytes, 60));
  await expect(stored).rejects.toMatchObject({ code: 'storage_unavailable', cause });
  failOnce(fs.open, cause);
  expect(await store.get(key)).toBeUndefined();
});

test('what is no fault of the disk stays what it is', async () => {
  const cause = fault('EISDIR');
  failOnce(fs.writeFile, cause);
  await expect(store.put(key, bytes, 60)).rejects.toBe(cause);
});
