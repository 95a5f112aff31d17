/** What the api answers while no worker takes jobs, while Redis is away and while it shuts down. */
import dns from 'node:dns';
import { once } from 'node:events';
import { connect } from 'node:net';
import { buffer, text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { JobObject } from '../../src/api/job-object.ts';
import { startServer } from '../../src/api/server.ts';
import type { Problem } from '../../src/errors.ts';
import { inputKey, outputKey } from '../../src/jobs/job.ts';
import { metrics } from '../../src/metrics.ts';
import { startApi, type TestApi } from '../support/api.ts';
import { expectContract } from '../support/contract.ts';
import { writeFinishedJob } from '../support/finished-job.ts';
import { photo } from '../support/hostile-images.ts';
import { type Answer, json, parseRaw, rawExchange, send } from '../support/http.ts';
import { leavingClient } from '../support/leaving.ts';
import { jobData } from '../support/worker.ts';

type DnsAnswer = (error: null, found: string | object[], family?: number) => void;
type DnsRest = [DnsAnswer] | [{ all?: boolean }, DnsAnswer];

let api: TestApi;
let png: Buffer;
beforeEach(async () => {
  api = await startApi({
    MAX_QUEUE_LENGTH: '2',
    MAX_WAIT_SECONDS: '30',
    KEEP_ALIVE_SECONDS: '7200',
  });
  png = await photo('png', 24, 16);
});
afterEach(async () => {
  vi.restoreAllMocks();
  await api.stop();
});

const call = async (operation: string, path: string, init: RequestInit = {}): Promise<Answer> => {
  const answer = await send(`${api.url}${path}`, init);
  expectContract(answer, operation);
  return answer;
};
const post = (headers: Record<string, string> = {}, body: Buffer = png): Promise<Answer> =>
  call('createUpscale', '/upscale', {
    method: 'POST',
    body: new Uint8Array(body),
    headers: { 'content-type': 'image/png', ...headers },
  });
const newJob = async (): Promise<JobObject> => json<JobObject>(await post());
const problem = (answer: Answer) => json<Problem>(answer);
/** Resolves when `count` requests wait for a job. */
const waiting = (count: number) => {
  const waitFor = vi.spyOn(api.queue, 'waitFor');
  return () => vi.waitFor(() => expect(waitFor).toHaveBeenCalledTimes(count), { timeout: 10_000 });
};

describe('while no worker takes jobs', () => {
  test('a job waits, with its place in the queue', async () => {
    const first = await newJob();
    const second = await newJob();
    for (const [position, { id }] of [first, second].entries()) {
      const job = json<JobObject>(await call('getUpscale', `/upscale/${id}`));
      expect(job).toMatchObject({ status: 'queued', queue_position: position });
    }
    const result = await call('getUpscaleResult', `/upscale/${first.id}/result`);
    expect(problem(result)).toMatchObject({ status: 409, code: 'job_not_finished' });
    expect(result.headers.get('retry-after')).toBe('1');
  });

  test('a wait that runs out answers 202 and the job, whatever Accept says', async () => {
    for (const accept of ['application/json', 'image/png']) {
      const answer = await post({ accept, prefer: 'wait=1' });
      expect(answer.status).toBe(202);
      expect(answer.headers.get('preference-applied')).toBe('wait=1');
      expect(answer.headers.get('vary')).toBe('accept, prefer');
      expect(json<JobObject>(answer).status).toBe('queued');
    }
  });

  test('an id is found in upper case too', async () => {
    const { id } = await newJob();
    const shouted = `/upscale/${id.toUpperCase()}`;
    expect(json<JobObject>(await call('getUpscale', shouted))).toMatchObject({ id });
    const deleted = await call('deleteUpscale', shouted, { method: 'DELETE' });
    expect(json<JobObject>(deleted)).toMatchObject({ id, status: 'canceled' });
  });

  test('a full queue refuses before the upload, and says when to come back', async () => {
    await newJob();
    await newJob();
    // Asked first, so that the body is never sent: the answer cannot have read it.
    const answer = parseRaw(
      await rawExchange(api.port, [
        'POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n',
      ]),
    );
    expectContract(answer, 'createUpscale');
    expect(problem(answer)).toMatchObject({ status: 429, code: 'queue_full' });
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
  });

  test('DELETE cancels at once, answers who waits, and then deletes', async () => {
    const waits = waiting(2);
    const asImage = post({ accept: 'image/png' });
    const asJob = post({ prefer: 'wait=30' });
    await waits();
    const ids = (await api.redis.client.lrange('bull:upscale:wait', 0, -1)).sort();
    expect(ids).toHaveLength(2);
    for (const id of ids) {
      const canceled = await call('deleteUpscale', `/upscale/${id}`, { method: 'DELETE' });
      expect(canceled.status).toBe(200);
      expect(json<JobObject>(canceled)).toMatchObject({
        id,
        status: 'canceled',
        error: { code: 'canceled' },
      });
      expect(await api.store.get(inputKey(id))).toBeUndefined();
    }
    expect(problem(await asImage)).toMatchObject({ status: 409, code: 'canceled' });
    expect((await asJob).status).toBe(200);
    expect(json<JobObject>(await asJob).status).toBe('canceled');

    const [id] = ids;
    const job = json<JobObject>(await call('getUpscale', `/upscale/${id}`));
    expect(job.status).toBe('canceled');
    const result = await call('getUpscaleResult', `/upscale/${id}/result`);
    expect(problem(result)).toMatchObject({ status: 409, code: 'canceled' });
    const deleted = await call('deleteUpscale', `/upscale/${id}`, { method: 'DELETE' });
    expect(deleted.status).toBe(204);
    expect((await call('getUpscale', `/upscale/${id}`)).status).toBe(404);
  });

  test('nobody waits for a client that has left before the wait begins', async () => {
    const submit = api.queue.submit.bind(api.queue);
    const waitFor = vi.spyOn(api.queue, 'waitFor');
    vi.spyOn(api.queue, 'submit').mockImplementationOnce(async (...job) => {
      const accepted = await submit(...job);
      await leave();
      return accepted;
    });
    const head = [
      'POST /upscale HTTP/1.1',
      'Host: x',
      'Content-Type: image/png',
      `Content-Length: ${png.length}`,
      'Accept: image/png',
    ].join('\r\n');
    const leave = leavingClient(api.port, [`${head}\r\n\r\n`, png]);
    await vi.waitFor(() => expect(waitFor).toHaveBeenCalled(), { timeout: 10_000 });
    const signal = waitFor.mock.calls[0]?.[2];
    expect(signal?.aborted).toBe(true);
    expect((await waitFor.mock.results[0]?.value)?.status).toBe('queued');
  });

  test('/readyz says that no device is ready, /healthz that the process is alive', async () => {
    const ready = await call('getReadiness', '/readyz');
    expect(problem(ready)).toMatchObject({ status: 503, code: 'not_ready' });
    expect(ready.headers.get('retry-after')).not.toBeNull();
    expect((await call('getHealth', '/healthz')).status).toBe(200);
  });

  test('the default model is taken before any worker has reported', async () => {
    expect(json(await call('listModels', '/models'))).toEqual({ models: [] });
    expect((await newJob()).params.model).toBe('pisa-tiny');
  });
});

describe('while Redis is away', () => {
  test('requests fail at once with Retry-After, probes and metrics answer, and all recovers', async () => {
    const job = await newJob();
    await api.redis.kill();

    const answers: [string, string, RequestInit][] = [
      ['getUpscale', `/upscale/${job.id}`, {}],
      ['getUpscaleResult', `/upscale/${job.id}/result`, {}],
      ['deleteUpscale', `/upscale/${job.id}`, { method: 'DELETE' }],
      ['listModels', '/models', {}],
      ['getReadiness', '/readyz', {}],
      [
        'createUpscale',
        '/upscale',
        { method: 'POST', body: new Uint8Array(png), headers: { 'content-type': 'image/png' } },
      ],
    ];
    for (const [operation, path, init] of answers) {
      const answer = await call(operation, path, init);
      expect(problem(answer), operation).toMatchObject({ status: 503, code: 'redis_unavailable' });
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    }
    expect((await call('getHealth', '/healthz')).status).toBe(200);
    // The chart's two probes: a pod that starts waits for Redis, one that has started answers as above.
    const starting = await call('getReadiness', '/readyz?exclude=devices');
    expect(problem(starting)).toMatchObject({ status: 503, code: 'redis_unavailable' });
    const serving = await call('getReadiness', '/readyz?exclude=devices,redis');
    expect(serving.status).toBe(200);
    expect(json(serving)).toEqual({ status: 'ready', devices: {} });
    const metrics = await call('getMetrics', '/metrics');
    expect(metrics.status).toBe(200);
    expect(metrics.body.toString()).not.toContain('pisa_queue_jobs{');

    await api.redis.restart();
    await api.queue.ready(10_000);
    // No accepted job is lost.
    expect(json<JobObject>(await call('getUpscale', `/upscale/${job.id}`)).status).toBe('queued');
    // Each connection comes back by itself.
    await expect.poll(async () => (await post()).status, { timeout: 10_000 }).toBe(202);
    expect((await call('getMetrics', '/metrics')).body.toString()).toContain('pisa_queue_jobs{');
  });

  test('a request that waits lives through it', async () => {
    const waits = waiting(1);
    const answer = post({ accept: 'image/png', prefer: 'wait=30' });
    await waits();
    const [id] = await api.redis.client.lrange('bull:upscale:wait', 0, -1);
    await api.redis.kill();
    await api.redis.restart();
    await api.queue.ready(10_000);
    const canceled = await call('deleteUpscale', `/upscale/${id}`, { method: 'DELETE' });
    expect(canceled.status).toBe(200);
    expect(problem(await answer)).toMatchObject({ status: 409, code: 'canceled' });
    expect((await answer).headers.get('location')).toBe(`/upscale/${id}`);
  });
});

test('HOST=localhost is one address, so that a close waits for all that is under way', async () => {
  // As in /etc/hosts of most machines, where the second is ::1.
  const addresses = ['127.0.0.1', '127.0.0.2'].map((address) => ({ address, family: 4 }));
  vi.spyOn(dns, 'lookup').mockImplementation(((host: string, ...rest: DnsRest) => {
    const [options, done] = rest.length === 2 ? rest : [{}, rest[0]];
    if (options.all) done(null, addresses);
    else done(null, host === 'localhost' ? '127.0.0.1' : host, 4);
  }) as typeof dns.lookup);
  const { queue, store, logger } = api;
  const config = { ...api.config, HOST: 'localhost' };
  const server = await startServer({ config, queue, store, logger });
  expect((await send(`http://127.0.0.1:${server.port}/healthz`)).status).toBe(200);
  const other = connect(server.port, '127.0.0.2');
  const outcome = new Promise((resolve) => {
    other.once('connect', () => resolve('connected')).once('error', resolve);
  });
  expect(await outcome).toMatchObject({ code: 'ECONNREFUSED' });
  await server.close();
});

test('a Redis that hangs holds up neither probes nor scrapes', async () => {
  await api.redis.client.call('CLIENT', 'PAUSE', '3000', 'ALL');
  expect((await call('getHealth', '/healthz')).status).toBe(200);
  const metrics = await call('getMetrics', '/metrics');
  expect(metrics.status).toBe(200);
  expect(metrics.body.toString()).not.toContain('pisa_queue_jobs{');
  // Its pause has not ended: the answers above did not wait for it.
  const paused = Symbol('paused');
  const soon = new Promise((resolve) => setImmediate(() => resolve(paused)));
  expect(await Promise.race([api.queue.counts(), soon])).toBe(paused);
});

describe('while shutting down', () => {
  test('who waits is answered, connections end, nothing hangs', async () => {
    const waits = waiting(1);
    const answer = post({ accept: 'image/png' });
    await waits();
    await api.server.close();
    expect((await answer).status).toBe(202);
    expect((await answer).headers.get('connection')).toBe('close');
    await expect(send(`${api.url}/healthz`)).rejects.toThrow();
    // The job is still there for the next instance.
    expect(await api.queue.counts()).toEqual({ queued: 1, processing: 0 });
  });

  test('until load balancers have noticed, it is not ready, serves on, and ends each connection', async () => {
    const { queue, store, logger } = api;
    const config = { ...api.config, SHUTDOWN_DELAY_SECONDS: 5 };
    const server = await startServer({ config, queue, store, logger });
    const ready = `${server.url}/readyz?exclude=devices,redis`;
    const before = await send(ready);
    expect(before.status).toBe(200);
    expect(before.headers.get('connection')).toBe('keep-alive');
    const closed = server.close();
    const refused = await send(ready);
    expectContract(refused, 'getReadiness');
    expect(problem(refused)).toMatchObject({ status: 503, code: 'shutting_down' });
    const served = await send(`${server.url}/upscale`, {
      method: 'POST',
      body: new Uint8Array(png),
      headers: { 'content-type': 'image/png' },
    });
    expect(served.status).toBe(202);
    expect(served.headers.get('connection')).toBe('close');
    await closed;
    await expect(send(ready)).rejects.toThrow();
  });

  test('an upload under way arrives whole and is answered; what nobody uses does not wait for it', async () => {
    const upload = connect(api.port, '127.0.0.1');
    const received = text(upload);
    const unused = connect(api.port, '127.0.0.1');
    const head = `POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: ${png.length}`;
    upload.write(`${head}\r\n\r\n`);
    upload.write(png.subarray(0, 100));
    const held = async () => (await metrics.uploadBytes.get()).values[0]?.value;
    await expect.poll(held).toBeGreaterThan(0);
    const closed = api.server.close();
    await once(unused, 'close');
    upload.write(png.subarray(100));
    const answer = parseRaw(await received);
    expectContract(answer, 'createUpscale');
    expect([answer.status, answer.headers.get('connection')]).toEqual([202, 'close']);
    await closed;
  });

  test('a download that takes longer than the grace is cut off', async () => {
    const large = Buffer.alloc(24_000_000, 1);
    const input = { ...jobData('', png).input, bytes: large.length };
    const id = await writeFinishedJob(api, png, { input });
    await api.store.put(outputKey(id), large, 60);
    const { queue, store, logger } = api;
    const config = { ...api.config, SHUTDOWN_GRACE_SECONDS: 1 };
    const server = await startServer({ config, queue, store, logger });
    const socket = connect(server.port, '127.0.0.1');
    socket.write(`GET /upscale/${id}/result HTTP/1.1\r\nHost: x\r\n\r\n`);
    await once(socket, 'readable');
    await server.close();
    const got = (await buffer(socket).catch(() => Buffer.alloc(0))).length;
    expect(got).toBeLessThan(large.length);
  });

  test('a request that was on its way is refused, with the advice to send it again', async () => {
    const socket = connect(api.port, '127.0.0.1');
    const received = text(socket);
    socket.write('GET /models HTTP/1.1\r\nHost: x\r\n');
    // Answered in order on the same thread: the lines above have arrived when this has been answered.
    await call('getHealth', '/healthz');
    const closed = api.server.close();
    await vi.waitFor(() => expect(send(`${api.url}/healthz`)).rejects.toThrow(), {
      timeout: 10_000,
    });
    socket.write('\r\n');
    const answer = parseRaw(await received);
    expectContract(answer, 'listModels');
    expect(problem(answer)).toMatchObject({ status: 503, code: 'shutting_down' });
    expect(answer.headers.get('retry-after')).toBe('1');
    await closed;
  });
});

test('a connection without a request is kept for KEEP_ALIVE_SECONDS, and ends with the api', async () => {
  const socket = connect(api.port, '127.0.0.1');
  socket.write('GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n');
  const [head] = await once(socket, 'data');
  expect(String(head)).toMatch(/\r\nKeep-Alive: timeout=7200\r\n/);
  const closed = once(socket.resume(), 'close');
  await api.server.close();
  await closed;
});
