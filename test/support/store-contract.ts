/** What every object store promises, whatever it stands on. */
import { expect, test } from 'vitest';
import type { ObjectStore } from '../../src/storage/object-store.ts';

const key = 'output/7f0b7d1c-0000-4000-8000-000000000000';
const bytes = Buffer.from([0, 255, 128, 10, 13]);

/** Registers the tests. @param opened the store, empty, once tests run */
export function describeStore(opened: () => ObjectStore): void {
  test('gives back what was put, byte for byte, until it is deleted', async () => {
    const store = opened();
    expect(await store.get(key)).toBeUndefined();
    expect(await store.has(key)).toBe(false);
    await store.put(key, bytes, 60);
    expect(await store.get(key)).toEqual(bytes);
    expect(await store.has(key)).toBe(true);
    await store.delete(key);
    expect(await store.get(key)).toBeUndefined();
    expect(await store.has(key)).toBe(false);
    await expect(store.delete(key)).resolves.toBeUndefined();
  });

  test('takes a view of a larger buffer as what it is', async () => {
    const store = opened();
    await store.put(key, new Uint8Array(bytes.buffer, bytes.byteOffset + 1, 2), 60);
    expect([...((await store.get(key)) ?? [])]).toEqual([255, 128]);
  });

  test('keeps objects apart, and takes large ones', async () => {
    const store = opened();
    const large = Buffer.alloc(5_000_000, 7);
    await store.put('latents/a', large, 60);
    await store.put('output/a', bytes, 60);
    expect((await store.get('latents/a'))?.equals(large)).toBe(true);
    await store.delete('latents/a');
    expect(await store.get('output/a')).toEqual(bytes);
  });

  test('streams an object in pieces, for as little of it as is read', async () => {
    const store = opened();
    expect(await store.stream(key)).toBeUndefined();
    const large = Buffer.alloc(
      3_000_000,
      Buffer.from(Array.from({ length: 251 }, (_, index) => index)),
    );
    await store.put(key, large, 60);
    const pieces: Buffer[] = (await (await store.stream(key))?.toArray()) ?? [];
    expect(pieces.length).toBeGreaterThan(2);
    expect(Buffer.concat(pieces).equals(large)).toBe(true);
    const left = await store.stream(key);
    for await (const piece of left ?? []) {
      expect(large.subarray(0, piece.length).equals(piece)).toBe(true);
      break;
    }
    expect(left?.destroyed).toBe(true);
    await store.put(key, bytes, 0.001);
    await expect.poll(() => store.stream(key), { timeout: 10_000 }).toBeUndefined();
  });

  test('copies an object, with a life of its own', async () => {
    const store = opened();
    expect(await store.copy('output/a', 'output/b', 60)).toBe(false);
    await store.put('output/a', bytes, 60);
    await store.put('output/b', Buffer.from('old'), 60);
    expect(await store.copy('output/a', 'output/b', 60)).toBe(true);
    await store.delete('output/a');
    expect(await store.get('output/b')).toEqual(bytes);
    expect(await store.copy('output/a', 'output/b', 60)).toBe(false);
    expect(await store.get('output/b')).toEqual(bytes);
    expect(await store.copy('output/b', 'output/a', 0.001)).toBe(true);
    await expect.poll(() => store.has('output/a'), { timeout: 10_000 }).toBe(false);
    expect(await store.copy('output/a', 'output/c', 60)).toBe(false);
  });

  test('gives an object another life, and nothing else', async () => {
    const store = opened();
    expect(await store.expire('output/a', 60)).toBe(false);
    expect(await store.has('output/a')).toBe(false);
    const all = Buffer.from(Array.from({ length: 256 }, (_, value) => value));
    await store.put('output/a', all, 2);
    await store.put('output/b', bytes, 2);
    expect(await store.expire('output/a', 60)).toBe(true);
    await expect.poll(() => store.has('output/b'), { timeout: 10_000 }).toBe(false);
    expect(await store.get('output/a')).toEqual(all);
    expect(await store.expire('output/b', 60)).toBe(false);
    expect(await store.expire('output/a', 0.001)).toBe(true);
    await expect.poll(() => store.get('output/a'), { timeout: 10_000 }).toBeUndefined();
  });

  test('replaces whole objects: a reader sees the old or the new, never a mixture', async () => {
    const store = opened();
    const versions = [1, 2, 3, 4].map((value) => Buffer.alloc(1_000_000, value));
    await store.put(key, versions[0] ?? bytes, 60);
    let writing = true;
    const writer = Promise.all(versions.map((version) => store.put(key, version, 60))).finally(
      () => {
        writing = false;
      },
    );
    let reads = 0;
    while (writing) {
      const seen = await store.get(key);
      expect(seen?.byteLength).toBe(1_000_000);
      expect(seen?.every((value) => value === seen[0])).toBe(true);
      reads += 1;
    }
    await writer;
    expect(reads).toBeGreaterThan(0);
  });

  test('shows no object whose time is over; one that is put again lives anew', async () => {
    const store = opened();
    await store.put(key, bytes, 0.001);
    await expect.poll(() => store.has(key), { timeout: 10_000 }).toBe(false);
    expect(await store.get(key)).toBeUndefined();
    await store.put(key, bytes, 60);
    expect(await store.get(key)).toEqual(bytes);
  });

  test.each([
    '../secret',
    'input/../../x',
    '/etc/passwd',
    'bull:upscale:1',
    'input',
    'input/',
    'input/a/b',
    'input/a.b',
  ])('refuses the key %s', async (bad) => {
    const store = opened();
    await expect(store.put(bad, bytes, 60)).rejects.toThrow('Not a storage key');
    await expect(store.get(bad)).rejects.toThrow('Not a storage key');
    await expect(store.has(bad)).rejects.toThrow('Not a storage key');
    await expect(store.stream(bad)).rejects.toThrow('Not a storage key');
    await expect(store.copy(bad, key, 60)).rejects.toThrow('Not a storage key');
    await expect(store.expire(bad, 60)).rejects.toThrow('Not a storage key');
    await store.put(key, bytes, 60);
    await expect(store.copy(key, bad, 60)).rejects.toThrow('Not a storage key');
    await expect(store.delete(bad)).rejects.toThrow('Not a storage key');
  });
}
