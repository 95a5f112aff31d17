import { mkdir, mkdtemp, readdir, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { FolderStore } from '../../../src/storage/folder-store.ts';
import { describeStore } from '../../support/store-contract.ts';

const key = 'output/7f0b7d1c-0000-4000-8000-000000000000';
const bytes = Buffer.from([0, 255, 128, 10, 13]);
let folder: string;
let store: FolderStore;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pisa-store-'));
  store = new FolderStore(folder, { sweep: false });
});
afterEach(async () => {
  await store.close();
  await rm(folder, { recursive: true, force: true });
});

describeStore(() => store);

const filesOf = (sub: string) => readdir(path.join(folder, sub)).catch(() => []);

test('does not show an object whose time is over, even before it is swept', async () => {
  await store.put(key, bytes, 0);
  expect(await store.get(key)).toBeUndefined();
  await store.put(key, bytes, -5);
  expect(await store.get(key)).toBeUndefined();
});

test('sweeps what has expired and nothing else', async () => {
  await store.put(key, bytes, -1);
  await store.put('input/over', bytes, 60);
  await store.expire('input/over', -1);
  await store.put('input/alive', bytes, 60);
  await store.sweep();
  expect(await filesOf('output')).toEqual([]);
  expect(await filesOf('input')).toEqual(['alive']);
});

test('sweeps the rest where something cannot be read, and leaves what is not its own', async () => {
  await mkdir(path.join(folder, 'lost+found'));
  const foreign = path.join(folder, 'lost+found', 'old');
  await writeFile(foreign, 'not ours');
  await utimes(foreign, new Date(0), new Date(0));
  // A link that leads to itself: as unreadable as a folder of somebody else.
  await mkdir(path.join(folder, 'input'));
  await symlink('a', path.join(folder, 'input', 'a'));
  await store.put(key, bytes, -1);
  await expect(store.sweep()).rejects.toMatchObject({ errors: [{ code: 'ELOOP' }] });
  expect(await filesOf('output')).toEqual([]);
  expect(await filesOf('lost+found')).toEqual(['old']);
});

test('sweeps what a dead process left half-written, but not what is being written', async () => {
  await mkdir(path.join(folder, '.writing'));
  const old = path.join(folder, '.writing', 'old');
  await writeFile(old, 'half');
  await utimes(old, new Date(0), new Date(Date.now() - 2 * 3_600_000));
  await writeFile(path.join(folder, '.writing', 'fresh'), 'half');
  await store.sweep();
  expect(await filesOf('.writing')).toEqual(['fresh']);
});

test('sweeps on its own when it opens', async () => {
  await store.put(key, bytes, -1);
  const sweeping = new FolderStore(folder, { sweep: true });
  await expect.poll(() => filesOf('output')).toEqual([]);
  await sweeping.close();
});

test('survives a folder that is not there', async () => {
  const nowhere = new FolderStore(path.join(folder, 'not', 'yet'), { sweep: false });
  await nowhere.sweep();
  expect(await nowhere.get(key)).toBeUndefined();
  await nowhere.put(key, bytes, 60);
  expect(await nowhere.get(key)).toEqual(bytes);
});

test('keeps images from other users of the machine', async () => {
  await store.put(key, bytes, 60);
  expect((await stat(path.join(folder, key))).mode & 0o077).toBe(0);
});

test('leaves no temporary file, whether writes succeed or fail', async () => {
  await store.put('input/a', bytes, 60);
  // A folder where the file should be makes the last step, the rename, fail.
  await mkdir(path.join(folder, key, 'in-the-way'), { recursive: true });
  await expect(store.put(key, bytes, 60)).rejects.toThrow();
  expect(await filesOf('.writing')).toEqual([]);
});
