/** Images in a bucket, on a real S3-compatible server: the store itself, and jobs that go through it. `make test-s3` */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { outputKey, sideKeys } from '../../src/jobs/job.ts';
import { connectRedis } from '../../src/jobs/redis.ts';
import { S3Store } from '../../src/storage/s3-store.ts';
import { type Build, buildService } from '../support/build.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { hasS3, isForeignS3, startS3, type TestS3 } from '../support/s3.ts';
import { describeStore } from '../support/store-contract.ts';
import { startWorkerBench, testImage, type WorkerBench } from '../support/worker.ts';

const bytes = Buffer.from('an image');
const fault = { code: 'storage_unavailable', status: 503, retryAfterSeconds: 5 };
let s3: TestS3;
let redis: TestRedis;

beforeAll(async () => {
  if (!hasS3) return;
  s3 = await startS3();
  redis = await startRedis();
});
afterAll(async () => {
  await redis?.stop();
  await s3?.stop();
});

const open = (sweep = false, bucket = s3.location.bucket): S3Store =>
  new S3Store(
    { ...s3.location, bucket },
    { redis: connectRedis(redis.url, 'consumer'), role: 'producer', sweep },
  );

describe.skipIf(!hasS3)('a store in a bucket', () => {
  let store: S3Store;
  beforeEach(async () => {
    await redis.client.flushall();
    await s3.empty();
    store = open();
  });
  afterEach(() => store.close());

  describeStore(() => store);

  test('sweeps what has expired and nothing else, on its own when it opens', async () => {
    await store.put('output/over', bytes, 0.001);
    await store.put('output/alive', bytes, 60);
    await store.put('output/longer', bytes, 2);
    await store.expire('output/longer', 60);
    await store.put('output/again', bytes, 0.001);
    await expect.poll(() => store.has('output/over')).toBe(false);
    await store.put('output/again', bytes, 60);
    const sweeping = open(true);
    await expect
      .poll(() => s3.keys(), { timeout: 10_000 })
      .toEqual(['images/output/again', 'images/output/alive', 'images/output/longer']);
    await expect
      .poll(() => redis.client.zrange('pisa:s3:expires', 0, '-1'))
      .toEqual(['output/alive', 'output/longer', 'output/again']);
    await sweeping.close();
  });

  test('leaves nothing in the index of what it deletes', async () => {
    await store.put('output/a', bytes, 60);
    await store.delete('output/a');
    expect(await redis.client.zcard('pisa:s3:expires')).toBe(0);
    expect(await s3.keys()).toEqual([]);
  });

  test('a bucket that is not there is a clear 503, not a missing image', async () => {
    const lost = open(false, 'nowhere-to-be-found');
    await expect(lost.put('output/a', bytes, 60)).rejects.toMatchObject(fault);
    await expect(lost.get('output/a')).rejects.toMatchObject(fault);
    await lost.close();
  });

  test.skipIf(isForeignS3)('so is a server that is away; and then all goes on', async () => {
    await s3.kill();
    await expect(store.get('output/a')).rejects.toMatchObject(fault);
    await s3.restart();
    await store.put('output/a', bytes, 60);
    expect(await store.get('output/a')).toEqual(bytes);
  });
});

describe.skipIf(!hasS3)('jobs', () => {
  let build: Build;
  let bench: WorkerBench;
  beforeAll(async () => {
    build = await buildService();
    await s3.empty();
    bench = await startWorkerBench(build, s3.location);
  });
  afterAll(async () => {
    await bench.stop();
    await build.remove();
  });

  const nameOf = (key: string): string => `images/${key}`;

  test('read, write, keep, evict and delete through the bucket', async () => {
    await (await bench.startWorker({ KEEP_MAX_MEGABYTES: '1' })).ready;
    // Its latents and residuals take 0.46 MB: those of three images are more than may be kept.
    const image = await testImage(40);
    const ids: string[] = [];
    for (let job = 0; job < 3; job += 1) {
      const id = await bench.submit(image, { pix: 1, sem: 0.5 });
      expect(await bench.ended(id)).toMatchObject({ status: 'succeeded' });
      ids.push(id);
    }
    const [first = '', , last = ''] = ids;
    const kept = await s3.keys();
    for (const id of ids) expect(kept).toContain(nameOf(outputKey(id)));
    const left = (id: string) => sideKeys(id).filter((key) => kept.includes(nameOf(key))).length;
    expect(left(last)).toBeGreaterThan(left(first));
    for (const id of ids) expect(await bench.queue.remove(id)).toEqual({ outcome: 'deleted' });
    await expect.poll(() => s3.keys(), { timeout: 10_000 }).toEqual([]);
  });
});
