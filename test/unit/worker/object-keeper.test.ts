import { expect, test, vi } from 'vitest';
import type { ObjectStore } from '../../../src/storage/object-store.ts';
import { ObjectKeeper } from '../../../src/worker/device-process/object-keeper.ts';
import type { JobStore } from '../../../src/worker/device-process/run-store.ts';

const bytes = Buffer.from('half-precision numbers');

/** A store in memory, without lives. */
function memoryStore(): JobStore & Pick<ObjectStore, 'delete'> {
  const objects = new Map<string, Buffer>();
  return {
    put: async (key, value) => void objects.set(key, Buffer.from(value)),
    expire: async (key) => objects.has(key),
    get: async (key) => objects.get(key),
    has: async (key) => objects.has(key),
    delete: async (key) => void objects.delete(key),
  };
}

const keeper = (store: JobStore, isOwn: boolean) =>
  new ObjectKeeper({
    store,
    owner: 'a',
    isOwn,
    tensorsExpireAt: Date.now() + 60_000,
    maxBytes: 1000,
  });

test('another job finds what a job has kept; a second attempt of the same job does not', async () => {
  const store = memoryStore();
  const own = keeper(store, true);
  own.write('latents', bytes);
  await own.written();
  expect(await keeper(store, true).read('latents')).toBeUndefined();
  const other = keeper(store, false);
  expect(await other.read('latents')).toEqual(bytes);
  const expiresAt = Date.now() + 1000;
  expect(other.objects(expiresAt)).toEqual([{ key: 'latents/a', bytes: bytes.length, expiresAt }]);
});

test('a job that was deleted leaves nothing again', async () => {
  const store = memoryStore();
  const other = keeper(store, false);
  other.write('latents', bytes);
  await other.written();
  expect(await store.has('latents/a')).toBe(false);
});

test('an upload that is kept lives longer, and is not written again; one that has gone is not kept', async () => {
  const store = memoryStore();
  await store.put('input/a', bytes, 60);
  const put = vi.spyOn(store, 'put');
  const expire = vi.spyOn(store, 'expire');
  const own = keeper(store, true);
  const expiresAt = Date.now() + 60_000;
  await own.keepUpload('input/a', bytes.length, expiresAt);
  await own.keepUpload('mappix/a', 3, expiresAt);
  expect(own.objects(expiresAt)).toEqual([{ key: 'input/a', bytes: bytes.length, expiresAt }]);
  expect(put).not.toHaveBeenCalled();
  const [key, ttlSeconds] = expire.mock.calls[0] ?? [];
  expect(key).toBe('input/a');
  expect(ttlSeconds).toBeGreaterThan(0);
  expect(ttlSeconds).toBeLessThanOrEqual(60);
});

test('a store that fails takes nothing away from a job: its upload stays, and counts as kept', async () => {
  const store = memoryStore();
  await store.put('input/a', bytes, 60);
  await store.put('latents/a', bytes, 60);
  const full = () => Promise.reject(new Error('The disk is full.'));
  Object.assign(store, { put: full, expire: full });
  const expiresAt = Date.now() + 60_000;
  const own = keeper(store, true);
  await own.keepUpload('input/a', bytes.length, expiresAt);
  own.write('eps_pix', bytes);
  await own.written();
  expect(own.objects(expiresAt)).toEqual([{ key: 'input/a', bytes: bytes.length, expiresAt }]);
  const other = keeper(store, false);
  other.write('latents', bytes);
  await other.written();
  expect(other.objects(expiresAt)).toEqual([]);
  expect(await store.get('input/a')).toEqual(bytes);
  expect(await store.get('latents/a')).toEqual(bytes);
});
