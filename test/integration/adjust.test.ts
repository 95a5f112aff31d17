/** Other dials for an image that was already sent: what is kept, for how long, and what it saves. */
import pino from 'pino';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { JobObject } from '../../src/api/job-object.ts';
import { contentKey, digestFiles, requestFingerprint } from '../../src/api/request-digest.ts';
import { type ApiServer, startServer } from '../../src/api/server.ts';
import type { Problem } from '../../src/errors.ts';
import { heatmapId, inputKey, outputKey, sideKeys, tensorKeys } from '../../src/jobs/job.ts';
import { type Build, buildService } from '../support/build.ts';
import { expectContract } from '../support/contract.ts';
import { type Answer, form, json, type Part, send } from '../support/http.ts';
import { devicesOf, whileStopped } from '../support/processes.ts';
import {
  jobData,
  startWorkerBench,
  testImage,
  type WorkerBench,
  workerConfig,
} from '../support/worker.ts';

let build: Build;
beforeAll(async () => {
  build = await buildService();
});
afterAll(() => build.remove());

/** Largest difference between two images, in levels of 255. */
async function levels(one: Uint8Array, other: Uint8Array): Promise<number> {
  const a = await sharp(one).raw().toBuffer();
  const b = await sharp(other).raw().toBuffer();
  expect(b.length).toBe(a.length);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] ?? 0))), 0);
}

/**
 * A service of its own: bench, API and the requests of this file.
 * @param workerEnv settings of the worker, where they are not those of the API
 */
async function start(
  storage: 'folder' | 'redis',
  env: Record<string, string> = {},
  workerEnv = env,
) {
  const bench: WorkerBench = await startWorkerBench(build, storage);
  const worker = await bench.startWorker(workerEnv);
  await worker.ready;
  const server: ApiServer = await startServer({
    config: workerConfig({ PORT: '0', MAX_WAIT_SECONDS: '60', ...env }),
    queue: bench.queue,
    store: bench.store,
    logger: pino({ level: 'silent' }),
  });
  const post = async (
    path: string,
    operation: string,
    body?: Uint8Array,
    headers: Record<string, string> = {},
  ): Promise<Answer> => {
    const answer = await send(`${server.url}${path}`, {
      method: 'POST',
      headers: {
        prefer: 'wait=60',
        'cache-control': 'no-cache',
        ...headers,
        ...(body ? { 'content-type': 'image/png' } : {}),
      },
      ...(body ? { body } : {}),
    });
    expectContract(answer, operation);
    return answer;
  };
  /** As a form; what it answers is a job, unless it is a problem. */
  const postForm = async (path: string, operation: string, parts: Part[]): Promise<Answer> => {
    const { headers, ...init } = form(parts);
    const answer = await send(`${server.url}${path}`, {
      ...init,
      headers: { ...headers, prefer: 'wait=60' },
    });
    expectContract(answer, operation);
    return answer;
  };
  return {
    bench,
    upscaleForm: (parts: Part[], query = '') =>
      postForm(`/upscale${query}`, 'createUpscale', parts),
    adjustForm: (id: string, parts: Part[], query = '') =>
      postForm(`/upscale/${id}/adjust${query}`, 'adjustUpscale', parts),
    sweepForm: (id: string, parts: Part[]) =>
      postForm(`/upscale/${id}/sweep`, 'sweepUpscale', parts),
    upscale: async (image: Uint8Array, query = ''): Promise<JobObject> =>
      json(await post(`/upscale${query}`, 'createUpscale', image)),
    adjust: (id: string, query = '', headers: Record<string, string> = {}) =>
      post(`/upscale/${id}/adjust${query}`, 'adjustUpscale', undefined, headers),
    result: async (id: string): Promise<Buffer> =>
      (await send(`${server.url}/upscale/${id}/result`)).body,
    sweep: (id: string, query = '', headers: Record<string, string> = {}) =>
      post(`/upscale/${id}/sweep${query}`, 'sweepUpscale', undefined, headers),
    heatmap: async (id: string, headers: Record<string, string> = {}): Promise<Answer> => {
      const answer = await send(`${server.url}/upscale/${id}/heatmap`, { headers });
      expectContract(answer, 'getHeatmap');
      return answer;
    },
    remove: (id: string) => send(`${server.url}/upscale/${id}`, { method: 'DELETE' }),
    evaluations: async (id: string) => (await bench.queue.get(id))?.result?.evaluations,
    /** As /metrics tells it. */
    keptBytes: async (): Promise<number> => {
      const { body } = await send(`${server.url}/metrics`);
      return Number(/^pisa_kept_bytes (\d+)$/m.exec(body.toString())?.[1]);
    },
    stop: async () => {
      await server.close();
      await bench.stop();
    },
  };
}

type Service = Awaited<ReturnType<typeof start>>;

describe.each(['folder', 'redis'] as const)('with images in the %s store', (storage) => {
  let service: Service;
  let image: Buffer;
  beforeAll(async () => {
    service = await start(storage);
    image = await testImage(30);
  });
  afterAll(() => service.stop());

  test('an adjust gives what a fresh job gives, without an evaluation', async () => {
    const { upscale, adjust, result, evaluations } = service;
    const first = await upscale(image, '?pix=1&sem=0.5&scale=3&quality=70');
    const answer = await adjust(first.id, '?pix=0.3&sem=1.8');
    expect(answer.status).toBe(200);
    const adjusted = json<JobObject>(answer);
    expect(adjusted).toMatchObject({
      status: 'succeeded',
      kind: 'adjust',
      source_id: first.id,
      params: { pix: 0.3, sem: 1.8, scale: 3, quality: 70 },
      output: { width: 90, height: 90 },
    });
    expect(adjusted.id).not.toBe(first.id);
    expect(await evaluations(first.id)).toBe(2);
    expect(await evaluations(adjusted.id)).toBe(0);
    const fresh = await upscale(image, '?pix=0.3&sem=1.8&scale=3');
    expect(await levels(await result(adjusted.id), await result(fresh.id))).toBeLessThanOrEqual(1);
    // Other dials are other images, or the test above proves nothing.
    expect(await levels(await result(adjusted.id), await result(first.id))).toBeGreaterThan(1);
  });

  test('what is not asked is as in the job of the path: life, time limit, priority', async () => {
    const { upscale, adjust, sweep } = service;
    const first = await upscale(image, '?ttl=500&timeout=33&priority=batch');
    const asBefore = { ttl_seconds: 500, timeout_seconds: 33, priority: 'batch' };
    expect(json(await adjust(first.id, '?sem=0'))).toMatchObject(asBefore);
    expect(json(await sweep(first.id, '?pix=1&sem=0,1'))).toMatchObject(asBefore);
    const asked = await adjust(first.id, '?ttl=400&priority=interactive');
    expect(json(asked)).toMatchObject({ ...asBefore, ttl_seconds: 400, priority: 'interactive' });
  });

  test('an Idempotency-Key makes retries of an adjust and of a sweep safe', async () => {
    const { upscale, adjust, sweep, bench } = service;
    const first = await upscale(image);
    const key = (name: string) => ({ 'idempotency-key': `${storage} ${name}`.replace(' ', '-') });
    const adjusted = json<JobObject>(await adjust(first.id, '?sem=0.4', key('adjust')));
    const sheet = json<JobObject>(await sweep(first.id, '?pix=1&sem=0,1', key('sweep')));
    // Also when the source is no longer kept: the job is there.
    await bench.store.delete(inputKey(first.id));
    const again = await adjust(first.id, '?sem=0.40', key('adjust'));
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(json<JobObject>(again).id).toBe(adjusted.id);
    const sheetAgain = await sweep(first.id, '?pix=1&sem=0,1', key('sweep'));
    expect(json<JobObject>(sheetAgain).id).toBe(sheet.id);
    const others = [
      await adjust(first.id, '?sem=0.5', key('adjust')),
      await adjust(first.id, '?sem=0.4', key('sweep')),
      await sweep(first.id, '?pix=1&sem=0,2', key('sweep')),
    ];
    for (const other of others) {
      expect(json<Problem>(other)).toMatchObject({ status: 422, code: 'idempotency_key_reused' });
    }
  });

  test('an Idempotency-Key makes them safe when the job of the path has been deleted, too', async () => {
    const { upscale, adjust, sweep, remove } = service;
    const first = await upscale(image, '?format=webp&sem=0.3');
    const key = (name: string) => ({ 'idempotency-key': `gone-${storage}-${name}` });
    const adjusted = json<JobObject>(await adjust(first.id, '?sem=0.4', key('adjust')));
    const again = json<JobObject>(await adjust(adjusted.id, '?pix=0.2', key('again')));
    const sheet = json<JobObject>(await sweep(first.id, '?pix=1&sem=0,1', key('sweep')));
    for (const { id } of [first, adjusted]) expect((await remove(id)).status).toBe(204);
    const retries = [
      await sweep(first.id, '?pix=1&sem=0,1', key('sweep')),
      await adjust(adjusted.id, '?pix=0.20', key('again')),
    ];
    expect(retries.map((retry) => json<JobObject>(retry))).toEqual([sheet, again]);
    for (const { headers } of retries) expect(headers.get('idempotency-replayed')).toBe('true');
    const bytes = await adjust(adjusted.id, '?pix=0.2', { ...key('again'), accept: 'image/*' });
    expect(bytes.headers.get('content-type')).toBe('image/webp');
    const refused = [
      // Without the key, in other words, of another job; and one whose own job is gone.
      await adjust(adjusted.id, '?pix=0.2'),
      await adjust(adjusted.id, '', key('again')),
      await adjust(first.id, '?pix=0.2', key('again')),
      await adjust(first.id, '?sem=0.4', key('adjust')),
    ];
    for (const { status } of refused) expect(status).toBe(404);
  });

  test('what is not asked for stays as it was; an adjust can be adjusted', async () => {
    const { upscale, adjust, evaluations } = service;
    const first = await upscale(image, '?pix=0.7&sem=0.2&format=webp');
    const second = json<JobObject>(await adjust(first.id, '?sem=1'));
    expect(second.params).toMatchObject({ pix: 0.7, sem: 1, format: 'webp' });
    const third = json<JobObject>(await adjust(second.id, '?pix=1.1&format=jpeg'));
    expect(third).toMatchObject({
      source_id: first.id,
      params: { pix: 1.1, sem: 1, format: 'jpeg' },
      output: { content_type: 'image/jpeg' },
    });
    expect(await evaluations(third.id)).toBe(0);
    const typeOf = async (answer: Promise<Answer>) => (await answer).headers.get('content-type');
    const anyImage = { accept: 'image/*' };
    expect(await typeOf(adjust(second.id, '?sem=1.1', anyImage))).toBe('image/webp');
    expect(await typeOf(adjust(second.id, '?sem=1.1&format=jpeg', anyImage))).toBe('image/jpeg');
    expect(await typeOf(adjust(second.id, '', { accept: 'image/png' }))).toBe('image/png');
    expect(await typeOf(service.sweep(second.id, '?pix=1&sem=0', anyImage))).toBe('image/png');
  });

  test('a residual that the first job did not need is computed once and added', async () => {
    const { bench, upscale, adjust, evaluations } = service;
    const first = await upscale(image, '?pix=1&sem=1');
    const keys = tensorKeys(first.id);
    expect(await bench.store.has(keys.eps_pisa)).toBe(true);
    expect(await bench.store.has(keys.eps_pix)).toBe(false);
    const second = json<JobObject>(await adjust(first.id, '?sem=0.5'));
    expect(await evaluations(second.id)).toBe(1);
    expect(await bench.store.has(keys.eps_pix)).toBe(true);
    const third = json<JobObject>(await adjust(first.id, '?sem=1.5'));
    expect(await evaluations(third.id)).toBe(0);
  });

  test('latents that are gone are computed again while the upload is there; then 410', async () => {
    const { bench, upscale, adjust, result, evaluations } = service;
    const first = await upscale(image, '?pix=1&sem=0.5');
    for (const key of Object.values(tensorKeys(first.id))) await bench.store.delete(key);
    const again = json<JobObject>(await adjust(first.id));
    expect(await evaluations(again.id)).toBe(2);
    expect(await levels(await result(again.id), await result(first.id))).toBe(0);
    await bench.store.delete(inputKey(first.id));
    const refused = await adjust(first.id);
    expect(refused.status).toBe(410);
    expect(json<Problem>(refused)).toMatchObject({ code: 'input_expired' });
    expect(json<Problem>(refused).detail).toContain('Send it again');
  });

  test('DELETE of the first job leaves nothing of it, in the store or in the index', async () => {
    const { bench, upscale, adjust, remove, keptBytes } = service;
    const before = await keptBytes();
    const first = await upscale(image, '?pix=1&sem=0.5');
    const adjusted = json<JobObject>(await adjust(first.id, '?sem=0.6'));
    expect(await keptBytes()).toBeGreaterThan(before + image.length);
    expect((await remove(first.id)).status).toBe(204);
    expect(await keptBytes()).toBe(before);
    for (const key of sideKeys(first.id)) {
      expect(await bench.store.has(key), key).toBe(false);
      expect(await bench.redis.client.hexists('pisa:kept:bytes', key)).toBe(0);
    }
    expect((await adjust(first.id)).status).toBe(404);
    expect((await adjust(adjusted.id)).status).toBe(410);
  });

  test('an adjust of a job that has no result says why not', async () => {
    const { bench, adjust } = service;
    const failed = await bench.submit(Buffer.from('no image'));
    await bench.ended(failed);
    const refused = await adjust(failed);
    expect(refused.status).toBe(409);
    expect(json<Problem>(refused).code).toBe('job_has_no_result');
    expect((await adjust('7f0b7d1c-0000-4000-8000-000000000000')).status).toBe(404);
  });
});

describe('pictures about a job', () => {
  let service: Service;
  let image: Buffer;
  beforeAll(async () => {
    service = await start('redis', { SWEEP_MAX_CELLS: '6', MAX_OUTPUT_PIXELS: '200000' });
    image = await testImage(30);
  });
  afterAll(() => service.stop());

  test('a sweep is one sheet, from what the job has kept', async () => {
    const { bench, upscale, sweep, result, evaluations } = service;
    const first = await upscale(image, '?pix=1&sem=0.5&scale=2&format=webp');
    const sheet = json<JobObject>(await sweep(first.id, '?pix=0,1.5,2.000&sem=0.5,1'));
    expect(sheet).toMatchObject({
      status: 'succeeded',
      kind: 'sweep',
      source_id: first.id,
      sweep: { pix: [0, 1.5, 2], sem: [0.5, 1] },
      params: { format: 'png' },
    });
    expect(await evaluations(sheet.id)).toBe(0);
    const { width = 0, height = 0 } = await sharp(await result(sheet.id)).metadata();
    expect([sheet.output?.width, sheet.output?.height]).toEqual([width, height]);
    expect(width).toBeGreaterThan(3 * 60);
    expect(height).toBeGreaterThan(2 * 60);
    const asked = { format: 'webp', quality: 30, colorfix: 'adain' };
    const query = new URLSearchParams({ ...asked, quality: '30', pix: '1', sem: '0.5' });
    const other = json<JobObject>(await sweep(first.id, `?${query}`));
    expect(other).toMatchObject({ status: 'succeeded', params: asked });
    expect(await bench.queue.get(other.id)).toMatchObject({ result: { colorfix: 'adain' } });
    expect((await sharp(await result(other.id)).metadata()).format).toBe('webp');
  });

  const listed = 'comma-separated numbers from 0 to 2 with at most three decimals for pix';
  test.each([
    ['?pix=1,2,3&sem=1', 422, 'invalid_parameter', listed],
    ['?pix=1,1,1&sem=1,1,1', 422, 'invalid_parameter', 'SWEEP_MAX_CELLS'],
    ['?pix=1,,2', 422, 'invalid_parameter', listed],
    ['?pix=0.1234', 422, 'invalid_parameter', listed],
    ['?pix=1,2.001', 422, 'invalid_parameter', listed],
    ['?pix=1,2&sem=0,1,2', 413, 'too_many_pixels', ''],
  ])('a sweep %s is refused', async (query, status, code, names) => {
    const { upscale, sweep } = service;
    const first = await upscale(await testImage(100), '?pix=1&sem=1&scale=2');
    const refused = await sweep(first.id, query);
    expect([refused.status, json<Problem>(refused).code]).toEqual([status, code]);
    expect(json<Problem>(refused).detail).toContain(names);
  });

  test('a heat map is made once, has the size of the result, and goes with its job', async () => {
    const { bench, upscale, heatmap, remove } = service;
    const first = await upscale(image, '?pix=1&sem=1');
    const [one, other] = await Promise.all([heatmap(first.id), heatmap(first.id)]);
    expect(one.status).toBe(200);
    expect(one.headers.get('content-type')).toBe('image/png');
    expect(one.body.equals(other.body)).toBe(true);
    expect(one.headers.get('x-job-id')).toBe(other.headers.get('x-job-id'));
    expect(await sharp(one.body).metadata()).toMatchObject({ width: 120, height: 120 });
    const made = one.headers.get('x-job-id') ?? '';
    // One evaluation was there, the other was added.
    expect((await bench.queue.get(made))?.result?.evaluations).toBe(1);
    expect(await bench.store.has(tensorKeys(first.id).eps_pix)).toBe(true);
    const again = await heatmap(first.id);
    expect(again.headers.get('x-job-id')).toBe(made);
    const etag = again.headers.get('etag') ?? '';
    const held = await heatmap(first.id, { 'if-none-match': etag });
    expect([held.status, held.body.length, held.headers.get('etag')]).toEqual([304, 0, etag]);
    expect((await heatmap(first.id, { 'if-none-match': '"other"' })).status).toBe(200);
    expect((await remove(first.id)).status).toBe(204);
    expect((await heatmap(first.id)).status).toBe(404);
    expect(await bench.queue.get(made)).toBeUndefined();
    expect(await bench.store.has(`output/${made}`)).toBe(false);
  });

  test('a heat map of what is no longer kept is 410, unless it was made before', async () => {
    const { bench, upscale, heatmap } = service;
    const first = await upscale(image, '?pix=1&sem=1');
    const second = await upscale(image, '?pix=1&sem=1');
    expect((await heatmap(first.id)).status).toBe(200);
    for (const { id } of [first, second]) await bench.store.delete(inputKey(id));
    expect((await heatmap(first.id)).status).toBe(200);
    const refused = await heatmap(second.id);
    expect([refused.status, json<Problem>(refused).code]).toEqual([410, 'input_expired']);
  });
});

describe('strength maps', () => {
  let service: Service;
  let image: Buffer;
  beforeAll(async () => {
    service = await start('folder');
    image = await testImage(30);
  });
  afterAll(() => service.stop());

  /** A grey PNG of one colour, or black at the left and white at the right. */
  const map = (left: number, right = left): Promise<Buffer> =>
    sharp(Uint8Array.of(left, left, right, right), { raw: { width: 4, height: 1, channels: 1 } })
      .png()
      .toBuffer();
  const file = (name: string, bytes: Uint8Array): Part => ({
    name,
    fileName: `${name}.png`,
    type: 'image/png',
    bytes,
  });

  test('white is the dial, black is nothing, and the job says that there is one', async () => {
    const { upscale, upscaleForm, result } = service;
    const at = async (bytes: Buffer, query = '?pix=1&sem=2') => {
      const parts = [file('image', image), file('sem_map', bytes)];
      return json<JobObject>(await upscaleForm(parts, query));
    };
    const white = await at(await map(255));
    expect(white).toMatchObject({ status: 'succeeded', params: { pix_map: false, sem_map: true } });
    const black = await at(await map(0));
    const full = await upscale(image, '?pix=1&sem=2');
    const none = await upscale(image, '?pix=1&sem=0');
    expect(await levels(await result(white.id), await result(full.id))).toBeLessThanOrEqual(1);
    expect(await levels(await result(black.id), await result(none.id))).toBeLessThanOrEqual(1);
    expect(await levels(await result(white.id), await result(black.id))).toBeGreaterThan(1);
  });

  test('an adjust takes them too, and gives what a fresh job with them gives', async () => {
    const { upscale, upscaleForm, adjustForm, result, evaluations } = service;
    const first = await upscale(image, '?pix=1&sem=0.5');
    const maps = [file('pix_map', await map(0, 255)), file('sem_map', await map(255, 60))];
    const adjusted = json<JobObject>(await adjustForm(first.id, maps, '?pix=1.5&sem=1.2'));
    expect(adjusted).toMatchObject({
      status: 'succeeded',
      params: { pix_map: true, sem_map: true },
    });
    expect(await evaluations(adjusted.id)).toBe(0);
    const parts = [file('image', image), ...maps];
    const fresh = json<JobObject>(await upscaleForm(parts, '?pix=1.5&sem=1.2'));
    expect(await levels(await result(adjusted.id), await result(fresh.id))).toBeLessThanOrEqual(1);
    const plain = json<JobObject>(await service.adjust(adjusted.id));
    expect(plain.params).toMatchObject({ pix: 1.5, sem: 1.2, pix_map: false, sem_map: false });
  });

  test('another map is another request', async () => {
    const { params } = jobData('', image);
    const asked = { params, ttlSeconds: 60, timeoutMs: 1000 };
    const maps = [{}, { pix: await map(40) }, { pix: await map(41) }, { sem: await map(40) }];
    const files = await Promise.all(maps.map((those) => digestFiles({ image, maps: those })));
    const digests = files.flatMap((those) => [
      contentKey(those, asked, 'anyone'),
      requestFingerprint(those, asked, {}),
    ]);
    expect(new Set(digests).size).toBe(8);
  });

  test('a sweep takes no body: a map in it would be ignored', async () => {
    const { upscale, sweepForm } = service;
    const first = await upscale(image, '?pix=1&sem=1&scale=2');
    const refused = await sweepForm(first.id, [file('sem_map', await map(255))]);
    expect([refused.status, json<Problem>(refused)]).toEqual([
      415,
      expect.objectContaining({
        code: 'unsupported_media_type',
        detail: expect.stringContaining('multipart/form-data'),
      }),
    ]);
  });

  test('what is no map is refused by name', async () => {
    const { upscale, upscaleForm, adjustForm } = service;
    const broken = await upscaleForm([
      file('image', image),
      file('sem_map', image.subarray(0, 90)),
    ]);
    expect(broken.status).toBe(422);
    expect(json<Problem>(broken).errors?.[0]?.pointer).toBe('#/form/sem_map');
    const first = await upscale(image, '?pix=1&sem=1');
    const white = await map(255);
    const stray = await adjustForm(first.id, [file('image', image)]);
    expect([stray.status, json<Problem>(stray).code]).toEqual([422, 'invalid_parameter']);
    const twice = await adjustForm(first.id, [file('pix_map', white), file('pix_map', white)]);
    expect([twice.status, json<Problem>(twice).code]).toEqual([400, 'too_many_files']);
    const text = await adjustForm(first.id, [file('pix_map', Buffer.from('hello'))]);
    expect([text.status, json<Problem>(text).code]).toEqual([415, 'unsupported_media_type']);
  });
});

test('DELETE of a job stops its heat map, which then nobody may fetch', async () => {
  const service = await start('folder');
  try {
    const { bench, upscale, heatmap, remove, result } = service;
    const first = await upscale(await testImage(24));
    const made = heatmapId(first.id);
    const [device = 0] = devicesOf(process.pid);
    const asked = await whileStopped(device, async () => {
      const begun = bench.event(made, 'active');
      const answer = heatmap(first.id);
      await begun;
      expect((await remove(first.id)).status).toBe(204);
      return answer;
    });
    expect(json<Problem>(asked)).toMatchObject({ status: 409, code: 'canceled' });
    await bench.finished(made);
    expect((await result(made)).toString()).toContain('"canceled"');
    expect(await bench.store.has(outputKey(made))).toBe(false);
    expect((await heatmap(first.id)).status).toBe(404);
  } finally {
    await service.stop();
  }
});

test('a job that was answered from a stored result is a source of its own, maps and all', async () => {
  const service = await start('folder', { RESULT_CACHE: 'on' });
  try {
    const { bench, upscaleForm, adjust, heatmap, remove } = service;
    const [photo, map] = [await testImage(30), await testImage(8)];
    const parts = [
      { name: 'image', fileName: 'photo.png', type: 'image/png', bytes: photo },
      { name: 'pix_map', fileName: 'map.png', type: 'image/png', bytes: map },
    ];
    const maker = json<JobObject>(await upscaleForm(parts));
    await expect.poll(() => bench.redis.client.keys('pisa:made:*')).toHaveLength(1);
    const answer = await upscaleForm(parts);
    expect(answer.headers.get('x-cache')).toBe('hit');
    const hit = json<JobObject>(answer);
    expect(hit).toMatchObject({ source_id: null, params: { pix_map: true } });
    const ofMaker = await heatmap(maker.id);
    expect((await remove(maker.id)).status).toBe(204);

    const ofHit = await heatmap(hit.id);
    expect([ofMaker.status, ofHit.status]).toEqual([200, 200]);
    expect(await levels(ofHit.body, ofMaker.body)).toBeLessThanOrEqual(1);
    const adjusted = json<JobObject>(await adjust(hit.id, '?sem=0.4'));
    expect(adjusted).toMatchObject({ status: 'succeeded', source_id: hit.id });
    const counted = () => bench.redis.client.hget('pisa:kept:bytes', inputKey(hit.id));
    expect(await counted()).toBe(String(photo.length));
    expect((await remove(hit.id)).status).toBe(204);
    expect(await counted()).toBeNull();
    for (const key of sideKeys(hit.id)) expect(await bench.store.has(key), key).toBe(false);
  } finally {
    await service.stop();
  }
});

test('a job is answered from a stored result even where its upload cannot be kept', async () => {
  const service = await start('folder', { RESULT_CACHE: 'on' });
  try {
    const { bench, upscaleForm } = service;
    const bytes = await testImage(30);
    const parts = [{ name: 'image', fileName: 'photo.png', type: 'image/png', bytes }];
    await upscaleForm(parts);
    await expect.poll(() => bench.redis.client.keys('pisa:made:*')).toHaveLength(1);
    // The index of what is kept is broken.
    await bench.redis.client.del('pisa:kept:bytes');
    await bench.redis.client.rpush('pisa:kept:bytes', 'no hash');
    const hit = json<JobObject>(await upscaleForm(parts));
    expect(hit).toMatchObject({ status: 'succeeded', reused: true });
    expect(await bench.store.has(outputKey(hit.id))).toBe(true);
    expect(await bench.store.has(inputKey(hit.id))).toBe(false);
  } finally {
    await service.stop();
  }
});

test('over the size limit the least recently used latents go first, uploads last', async () => {
  const service = await start('folder', { KEEP_MAX_MEGABYTES: '1' });
  try {
    const { bench, upscale, adjust, evaluations } = service;
    const image = await testImage(55);
    // z_L and one residual: 2 × 55 · 55 · 48 values of 2 bytes, so that only one job's fit.
    const first = await upscale(image, '?pix=1&sem=1');
    const second = await upscale(image, '?pix=1&sem=1');
    const there = async (id: string) =>
      Promise.all(sideKeys(id).map((key) => bench.store.has(key)));
    const total = Number(await bench.redis.client.get('pisa:kept:total'));
    expect(total).toBeLessThanOrEqual(1_000_000);
    expect(await bench.store.has(inputKey(first.id))).toBe(true);
    expect((await there(second.id)).filter(Boolean).length).toBe(3);
    expect((await there(first.id)).filter(Boolean).length).toBeLessThan(3);
    const again = json<JobObject>(await adjust(first.id, '?pix=0.5&sem=0.5'));
    expect(again.status).toBe('succeeded');
    expect(await evaluations(again.id)).toBeLessThanOrEqual(1);
    // The index and the store hold the same objects.
    const indexed = await bench.redis.client.hkeys('pisa:kept:bytes');
    for (const key of indexed) expect(await bench.store.has(key), key).toBe(true);
    const sizes = await bench.redis.client.hvals('pisa:kept:bytes');
    expect(Number(await bench.redis.client.get('pisa:kept:total'))).toBe(
      sizes.reduce((sum, size) => sum + Number(size), 0),
    );
    // Larger than the limit as a whole: only the upload is kept.
    const large = await upscale(await testImage(80), '?pix=1&sem=1');
    expect((await there(large.id)).filter(Boolean).length).toBe(1);
  } finally {
    await service.stop();
  }
});

test('a job that would keep more than KEEP_MAX_JOB_MEGABYTES keeps its upload alone', async () => {
  const service = await start('folder', { KEEP_MAX_JOB_MEGABYTES: '1' });
  try {
    const { bench, upscale } = service;
    const kept = async (edge: number): Promise<string[]> => {
      const { id } = await upscale(await testImage(edge), '?pix=1&sem=1');
      const { result } = (await bench.queue.get(id)) ?? {};
      return (result?.kept ?? []).map(({ key }) => key.split('/')[0] ?? '').sort();
    };
    // z_L and one residual, as above: 0.6 MB, and 1.2 MB.
    expect(await kept(55)).toHaveLength(3);
    expect(await kept(80)).toEqual(['input']);
  } finally {
    await service.stop();
  }
});

test('KEEP_MAX_MEGABYTES=0 keeps nothing', async () => {
  const service = await start('folder', { KEEP_MAX_MEGABYTES: '0', RESULT_CACHE: 'on' });
  try {
    const { bench, upscaleForm } = service;
    const bytes = await testImage(24);
    const parts = [{ name: 'image', fileName: 'photo.png', type: 'image/png', bytes }];
    const first = json<JobObject>(await upscaleForm(parts));
    await expect.poll(() => bench.redis.client.keys('pisa:made:*')).toHaveLength(1);
    const hit = json<JobObject>(await upscaleForm(parts));
    expect(hit).toMatchObject({ reused: true });
    const keys = [first, hit].flatMap(({ id }) => sideKeys(id));
    await expect
      .poll(async () => (await Promise.all(keys.map((key) => bench.store.has(key)))).some(Boolean))
      .toBe(false);
    for (const { id } of [first, hit]) expect((await service.adjust(id)).status).toBe(410);
  } finally {
    await service.stop();
  }
});

test('a sheet beyond the limit of its worker fails as the api would have refused it', async () => {
  const service = await start('folder', {}, { MAX_OUTPUT_PIXELS: '40000' });
  try {
    const { upscale, sweep } = service;
    const first = await upscale(await testImage(24));
    expect(first.status).toBe('succeeded');
    const sheet = json<JobObject>(await sweep(first.id, '?pix=0,1,2&sem=0,1,2'));
    expect(sheet).toMatchObject({
      status: 'failed',
      error: {
        code: 'too_many_pixels',
        detail: expect.stringMatching(/^The sheet would have .* at most 40000 .* fewer dials/),
      },
    });
  } finally {
    await service.stop();
  }
});
