/**
 * Webhooks through the real queue, with real workers and receivers that are down, broken, slow, endless or gone.
 * Waits of the schedule are shortened by its setting; nothing here sleeps.
 */
import { randomBytes } from 'node:crypto';
import { Queue } from 'bullmq';
import pino from 'pino';
import { Webhook } from 'standardwebhooks';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { JobObject } from '../../src/api/job-object.ts';
import { type ApiServer, startServer } from '../../src/api/server.ts';
import type { Problem } from '../../src/errors.ts';
import { connectRedis } from '../../src/jobs/redis.ts';
import { webhookQueueName } from '../../src/jobs/webhook.ts';
import { registry } from '../../src/metrics.ts';
import { Deliverer } from '../../src/webhooks/deliverer.ts';
import { type Build, buildService } from '../support/build.ts';
import { expectContract, expectWebhook } from '../support/contract.ts';
import { photo } from '../support/hostile-images.ts';
import { hostileHosts, hostileUrls } from '../support/hostile-urls.ts';
import { type Answer, json, send } from '../support/http.ts';
import {
  answers,
  answersForEver,
  type Behaviour,
  type Receiver,
  saysNothing,
  startReceiver,
} from '../support/receiver.ts';
import { startWorkerBench, testImage, type WorkerBench, workerConfig } from '../support/worker.ts';

const newSecret = (): string => `whsec_${randomBytes(32).toString('base64')}`;
const [secret, formerSecret] = [newSecret(), newSecret()];
const publicUrl = 'https://upscale.example/api';
const settings = {
  PORT: '0',
  RESULT_CACHE: 'off',
  PUBLIC_URL: `${publicUrl}/`,
  WEBHOOK_SECRET: `${secret}, ${formerSecret}`,
  // Of this machine's own addresses no other.
  WEBHOOK_ALLOWED_HOSTS: '127.0.0.1',
  WEBHOOK_TIMEOUT_SECONDS: '1',
  WEBHOOK_RETRY_SECONDS: '0.01,0.02,0.05,0.05,0.05,0.05',
  WEBHOOKS_IN_FLIGHT: '6',
  WEBHOOKS_IN_FLIGHT_PER_HOST: '2',
};

interface Event {
  type: string;
  timestamp: string;
  data: JobObject;
}

let build: Build;
let bench: WorkerBench;
let server: ApiServer;
let deliverer: Deliverer;
let png: Buffer;
const receivers: Receiver[] = [];

beforeAll(async () => {
  build = await buildService();
  bench = await startWorkerBench(build);
  await (await bench.startWorker()).ready;
  const config = workerConfig(settings);
  const logger = pino({ level: 'silent' });
  deliverer = new Deliverer({
    config,
    redisUrl: bench.redis.url,
    queue: bench.queue,
    logger,
    times: { lockMs: 5000, stalledCheckMs: 500 },
  });
  await deliverer.ready;
  server = await startServer({ config, queue: bench.queue, store: bench.store, logger });
  png = await photo('png', 24, 16);
});
/** Another api on the same queue. */
const serverWith = (changes: Record<string, string>): Promise<ApiServer> =>
  startServer({
    config: workerConfig({ ...settings, ...changes }),
    queue: bench.queue,
    store: bench.store,
    logger: pino({ level: 'silent' }),
  });

afterAll(async () => {
  await server.close();
  await deliverer.close();
  await bench.stop();
  await build.remove();
});
afterEach(async () => {
  await Promise.all(receivers.splice(0).map((receiver) => receiver.stop()));
});

async function receiverThat(behaviour: Behaviour, where = {}): Promise<Receiver> {
  const receiver = await startReceiver(behaviour, where);
  receivers.push(receiver);
  return receiver;
}

async function post(webhook: string, query = '', body: Uint8Array = png): Promise<Answer> {
  const answer = await send(
    `${server.url}/upscale?webhook=${encodeURIComponent(webhook)}${query}`,
    { method: 'POST', body: new Uint8Array(body), headers: { 'content-type': 'image/png' } },
  );
  expectContract(answer, 'createUpscale');
  return answer;
}
const newJob = async (webhook: string, query = '', body?: Uint8Array): Promise<JobObject> =>
  json<JobObject>(await post(webhook, query, body));
async function jobNow(id: string): Promise<JobObject> {
  const answer = await send(`${server.url}/upscale/${id}`);
  expectContract(answer, 'getUpscale');
  return json<JobObject>(answer);
}
const snapshotOf = async (id = '') =>
  (await bench.queue.get(id)) ?? expect.fail(`There is no job ${id}.`);
const untilDelivery = (id: string, status: 'delivered' | 'failed') =>
  expect
    .poll(async () => (await jobNow(id)).webhook?.status, { timeout: 60_000, interval: 20 })
    .toBe(status);
const untilReceived = (receiver: Receiver, count: number) =>
  expect.poll(() => receiver.received.length, { timeout: 60_000, interval: 20 }).toBe(count);

/** The event, as a receiver verifies it and as the contract describes it. */
function verified(receiver: Receiver, index = 0, key = secret): Event {
  const { headers, body } = receiver.received[index] ?? expect.fail('nothing received');
  expectWebhook(headers, body);
  return new Webhook(key).verify(body, headers as Record<string, string>) as Event;
}

describe('events', () => {
  test('succeeded: a signed POST of the job as it ended', async () => {
    const receiver = await receiverThat(answers(204));
    const accepted = await newJob(`${receiver.url}/hook?token=a`, '&scale=2');
    expect(accepted.webhook).toMatchObject({ status: 'pending', attempts: 0 });
    await untilDelivery(accepted.id, 'delivered');
    expect(receiver.received).toHaveLength(1);
    const [request] = receiver.received;
    expect(request).toMatchObject({ method: 'POST', path: '/hook?token=a' });
    expect(request?.headers).toMatchObject({
      'content-type': 'application/json',
      'webhook-id': accepted.id,
      'user-agent': 'pisa-serve',
    });
    const event = verified(receiver);
    const job = await jobNow(accepted.id);
    expect(event.type).toBe('upscale.succeeded');
    expect(event.timestamp).toBe(job.completed_at);
    expect(event.data).toEqual({
      ...job,
      webhook: null,
      output: { ...job.output, url: `${publicUrl}/upscale/${job.id}/result` },
      urls: Object.fromEntries(
        Object.entries(job.urls).map(([name, url]) => [name, publicUrl + url]),
      ),
    });
    expect(job.webhook).toMatchObject({
      url: `${receiver.url}/hook?token=a`,
      status: 'delivered',
      attempts: 1,
      last_status: 204,
      last_fault: null,
      next_attempt_at: null,
    });
    expect(request?.body.length).toBeLessThan(20_000);

    const deleted = await send(`${server.url}/upscale/${job.id}`, { method: 'DELETE' });
    expect(deleted.status).toBe(204);
    expect(await bench.redis.client.keys(`bull:*${job.id}*`)).toEqual([]);
    const ends = ['bull:webhooks:completed', job.id] as const;
    expect(await bench.redis.client.zscore(...ends)).toBeNull();
  });

  test('a secret is changed: the former one still verifies, another does not', async () => {
    const receiver = await receiverThat(answers(200));
    const { id } = await newJob(receiver.url);
    await untilDelivery(id, 'delivered');
    for (const key of [secret, formerSecret]) {
      expect(verified(receiver, 0, key).data.id).toBe(id);
    }
    expect(() => verified(receiver, 0, newSecret())).toThrow();
  });

  test('failed, with the problem', async () => {
    const receiver = await receiverThat(answers(200));
    const id = await bench.submit(
      Buffer.from('no image'),
      {},
      {
        webhook: { url: receiver.url, attempts: 3 },
      },
    );
    await untilDelivery(id, 'delivered');
    const event = verified(receiver);
    expect(event.type).toBe('upscale.failed');
    expect(event.data).toMatchObject({ id, status: 'failed' });
    expect(event.data.error?.code).toBe((await jobNow(id)).error?.code);
  });

  test('canceled while it ran, and canceled while it waited', async () => {
    const receiver = await receiverThat(answers(200));
    const large = await testImage(400);
    // Two run at a time, so the third waits.
    const ids: string[] = [];
    for (const _ of [1, 2, 3]) ids.push((await newJob(receiver.url, '', large)).id);
    await expect
      .poll(async () => (await jobNow(ids[0] ?? '')).status, { timeout: 30_000, interval: 5 })
      .toBe('processing');
    for (const id of ids.reverse()) {
      const answer = await send(`${server.url}/upscale/${id}`, { method: 'DELETE' });
      expect(answer.status).toBe(200);
      expectContract(answer, 'deleteUpscale');
      expect(json<JobObject>(answer).webhook).toMatchObject({ url: `${receiver.url}/` });
    }
    await untilReceived(receiver, 3);
    const events = receiver.received.map((_, index) => verified(receiver, index));
    expect(events.map(({ type }) => type)).toEqual(Array(3).fill('upscale.canceled'));
    expect(events.map(({ data }) => data.id).sort()).toEqual([...ids].sort());
  });

  test('of a job that is answered from a stored result, and of one that is adjusted', async () => {
    const receiver = await receiverThat(answers(200));
    const caching = await serverWith({ RESULT_CACHE: 'on' });
    const hook = `webhook=${encodeURIComponent(receiver.url)}`;
    const first = {
      method: 'POST',
      body: new Uint8Array(png),
      headers: { 'content-type': 'image/png', prefer: 'wait=30' },
    };
    const ids: string[] = [];
    for (const cache of ['miss', 'hit']) {
      const answer = await send(`${caching.url}/upscale?scale=3&${hook}`, first);
      expect(answer.headers.get('x-cache')).toBe(cache);
      ids.push(json<JobObject>(answer).id);
    }
    const adjusted = await send(`${caching.url}/upscale/${ids[0]}/adjust?sem=0.5&${hook}`, {
      method: 'POST',
    });
    expectContract(adjusted, 'adjustUpscale');
    ids.push(json<JobObject>(adjusted).id);
    await caching.close();
    await untilReceived(receiver, 3);
    const events = receiver.received.map((_, index) => verified(receiver, index));
    expect(events.map(({ type }) => type)).toEqual(Array(3).fill('upscale.succeeded'));
    expect(events.map(({ data }) => data.id).sort()).toEqual([...ids].sort());
  });

  test('of a job that is answered from a stored result, though nothing else knows it any more', async () => {
    const receiver = await receiverThat(answers(200));
    const caching = await serverWith({ RESULT_CACHE: 'on' });
    const upscale = async (query: string): Promise<Answer> =>
      send(`${caching.url}/upscale?scale=3.5${query}`, {
        method: 'POST',
        body: new Uint8Array(png),
        headers: { 'content-type': 'image/png', prefer: 'wait=30' },
      });
    const made = json<JobObject>(await upscale(''));
    await expect.poll(() => bench.redis.client.keys('pisa:made:*')).not.toEqual([]);
    const connection = connectRedis(bench.redis.url, 'consumer');
    const deliveries = new Queue(webhookQueueName, { connection });
    await deliveries.pause();
    const hit = await upscale(`&ttl=1&webhook=${encodeURIComponent(receiver.url)}`);
    expect(hit.headers.get('x-cache')).toBe('hit');
    const { id } = json<JobObject>(hit);
    expect(id).not.toBe(made.id);
    expect(await bench.redis.client.del(`pisa:reused:${id}`)).toBe(1);
    await deliveries.resume();
    await untilReceived(receiver, 1);
    expect(verified(receiver)).toMatchObject({
      type: 'upscale.succeeded',
      data: { id, reused: true, ttl_seconds: 1 },
    });
    await deliveries.close();
    connection.disconnect();
    await caching.close();
  });

  test('of a request that is sent twice under one key: one', async () => {
    const receiver = await receiverThat(answers(200));
    const twice = await Promise.all(
      [1, 2].map(() =>
        send(`${server.url}/upscale?webhook=${encodeURIComponent(receiver.url)}`, {
          method: 'POST',
          body: new Uint8Array(png),
          headers: { 'content-type': 'image/png', 'idempotency-key': 'once' },
        }),
      ),
    );
    const [id, same] = twice.map((answer) => json<JobObject>(answer).id);
    expect(same).toBe(id);
    await untilDelivery(id ?? '', 'delivered');
    // Accepted again after its end.
    await bench.queue.submit(id ?? '', { image: png }, (await snapshotOf(id)).data, {
      mayExist: true,
    });
    await expect
      .poll(async () => (await bench.queue.observe()).webhooks.pending, { timeout: 30_000 })
      .toBe(0);
    expect(receiver.received).toHaveLength(1);
  });

  test('a job without a webhook tells nobody', async () => {
    const receiver = await receiverThat(answers(200));
    const answer = await send(`${server.url}/upscale`, {
      method: 'POST',
      body: new Uint8Array(png),
      headers: { 'content-type': 'image/png', prefer: 'wait=30' },
    });
    expect(json<JobObject>(answer)).toMatchObject({ status: 'succeeded', webhook: null });
    await expect
      .poll(async () => (await bench.queue.observe()).webhooks.pending, { timeout: 30_000 })
      .toBe(0);
    expect(receiver.received).toEqual([]);
  });
});

describe('receivers', () => {
  test('that answers 500 gets the same event again, signed anew', async () => {
    let left = 3;
    const receiver = await receiverThat((request, response) =>
      answers(left-- > 0 ? 500 : 200)(request, response),
    );
    const { id } = await newJob(receiver.url);
    await untilDelivery(id, 'delivered');
    expect(receiver.received).toHaveLength(4);
    for (const index of [0, 1, 2, 3]) expect(verified(receiver, index).data.id).toBe(id);
    expect(new Set(receiver.received.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
    expect(new Set(receiver.received.map(({ body }) => body)).size).toBe(1);
    expect((await jobNow(id)).webhook).toMatchObject({ attempts: 4, last_status: 200 });
  });

  test('that is slow gets it again when its time is over', async () => {
    let first = true;
    const receiver = await receiverThat((request, response) => {
      if (!first) answers(200)(request, response);
      first = false;
    });
    const { id } = await newJob(receiver.url);
    await untilDelivery(id, 'delivered');
    expect(receiver.received).toHaveLength(2);
    expect((await jobNow(id)).webhook).toMatchObject({ attempts: 2, last_status: 200 });
  });

  test('that is down gets it once it is up', async () => {
    const gone = await startReceiver(saysNothing);
    await gone.stop();
    // More attempts than it makes until there is somebody again.
    const id = await bench.submit(png, {}, { webhook: { url: gone.url, attempts: 100_000 } });
    await expect
      .poll(async () => (await jobNow(id)).webhook?.attempts, { timeout: 60_000, interval: 5 })
      .toBeGreaterThan(0);
    expect((await jobNow(id)).webhook).toMatchObject({
      status: 'pending',
      last_status: null,
      last_fault: 'The connection failed.',
    });
    const receiver = await receiverThat(answers(200), { port: gone.port });
    await untilDelivery(id, 'delivered');
    expect(verified(receiver).data.id).toBe(id);
  });

  test('that stays broken is given up after the whole schedule', async () => {
    const receiver = await receiverThat(answers(503));
    const { id } = await newJob(receiver.url);
    await untilDelivery(id, 'failed');
    expect(receiver.received).toHaveLength(7);
    expect((await jobNow(id)).webhook).toMatchObject({
      attempts: 7,
      last_status: 503,
      last_fault: 'It answered 503.',
      next_attempt_at: null,
    });
    expect((await jobNow(id)).status).toBe('succeeded');
  });

  test('that is gone (410) is not asked again', async () => {
    const receiver = await receiverThat(answers(410));
    const { id } = await newJob(receiver.url);
    await untilDelivery(id, 'failed');
    expect(receiver.received).toHaveLength(1);
    expect((await jobNow(id)).webhook).toMatchObject({ attempts: 1, last_status: 410 });
  });

  test('that asks for patience (Retry-After) gets it', async () => {
    let first = true;
    const receiver = await receiverThat((request, response) => {
      answers(first ? 429 : 200, first ? { 'retry-after': '2' } : {})(request, response);
      first = false;
    });
    const { id } = await newJob(receiver.url);
    await untilDelivery(id, 'delivered');
    const [one, two] = receiver.received;
    // The schedule alone would have been back after 10 ms.
    expect((two?.at ?? 0) - (one?.at ?? 0)).toBeGreaterThanOrEqual(2000);
  });

  test('that redirects is not followed', async () => {
    const target = await receiverThat(answers(200));
    const receiver = await receiverThat(answers(307, { location: target.url }));
    const { id } = await newJob(receiver.url);
    await untilDelivery(id, 'failed');
    expect(target.received).toEqual([]);
    expect((await jobNow(id)).webhook).toMatchObject({
      last_status: 307,
      last_fault: 'It answered 307: redirects are not followed.',
    });
  });

  test('that answers with 10 GB is not read', async () => {
    const receiver = await receiverThat(
      answersForEver(200, { 'content-length': String(10 * 1024 ** 3) }),
    );
    const { id } = await newJob(receiver.url);
    await untilDelivery(id, 'delivered');
    await expect.poll(() => receiver.openConnections()).toBe(0);
    expect(receiver.bytesSent()).toBeLessThan(50_000_000);
    expect(receiver.received).toHaveLength(1);
  });

  test('that never answers delays no other, and no job', async () => {
    const slow = await receiverThat(saysNothing);
    const slowIds = await Promise.all(
      Array.from({ length: 12 }, async () => (await newJob(slow.url)).id),
    );
    await untilReceived(slow, 2);
    const live = await receiverThat(answers(200));
    const { id } = await newJob(live.url);
    await untilDelivery(id, 'delivered');
    // The slow one, with two connections at a time, has only had its first few meanwhile.
    const states = await Promise.all(slowIds.map(async (slowId) => (await jobNow(slowId)).webhook));
    expect(states.filter((state) => state?.status === 'pending').length).toBeGreaterThan(6);
    expect(await slow.openConnections()).toBeLessThanOrEqual(2);
    const answer = await send(`${server.url}/metrics`);
    expect(answer.body.toString()).toMatch(/^pisa_webhooks_pending [1-9]/m);
    await slow.stop();
    receivers.splice(receivers.indexOf(slow), 1);
    await Promise.all(slowIds.map((slowId) => untilDelivery(slowId, 'failed')));
  });

  test('that is told of a job deleted meanwhile', async () => {
    let up = false;
    const receiver = await receiverThat((request, response) =>
      answers(up ? 200 : 500, up ? {} : { 'retry-after': '1' })(request, response),
    );
    const { id } = await newJob(receiver.url);
    await untilReceived(receiver, 1);
    const deleted = await send(`${server.url}/upscale/${id}`, { method: 'DELETE' });
    expect(deleted.status).toBe(204);
    up = true;
    await untilReceived(receiver, 2);
    expect(verified(receiver, 1)).toMatchObject({ type: 'upscale.succeeded', data: { id } });
  });
});

describe('URLs', () => {
  test('that lead inside are refused when the job is sent', async () => {
    const refusing = await serverWith({ WEBHOOK_ALLOWED_HOSTS: '' });
    const urls = [
      ...hostileHosts.map((host) => `https://${host}/hook`),
      ...hostileUrls,
      'http://example.com/hook',
      'http://93.184.215.14/hook',
    ];
    try {
      for (const url of urls) {
        const answer = await send(`${refusing.url}/upscale?webhook=${encodeURIComponent(url)}`, {
          method: 'POST',
          body: new Uint8Array(png),
          headers: { 'content-type': 'image/png' },
        });
        expect({ url, code: json<Problem>(answer).code, status: answer.status }).toEqual({
          url,
          code: 'url_not_allowed',
          status: 422,
        });
        expectContract(answer, 'createUpscale');
      }
    } finally {
      await refusing.close();
    }
  });

  // By the address alone. One that a name leads to: test/unit/webhooks/attempt.test.ts.
  test('that lead inside are refused again when delivered, whatever the API let through', async () => {
    const inside = await receiverThat(answers(200), { host: '127.0.0.2' });
    const webhook = { url: `${inside.url}/`, attempts: 1 };
    const id = await bench.submit(png, {}, { webhook });
    await untilDelivery(id, 'failed');
    expect(inside.received).toEqual([]);
    expect((await jobNow(id)).webhook?.last_fault).toContain('is not at a public address');
  });

  test('are refused by a service without a secret', async () => {
    const without = await serverWith({ WEBHOOK_SECRET: '' });
    const answer = await send(`${without.url}/upscale?webhook=https://example.com/`, {
      method: 'POST',
      body: new Uint8Array(png),
      headers: { 'content-type': 'image/png' },
    });
    await without.close();
    expect(answer.status).toBe(422);
    expect(json<Problem>(answer).detail).toContain('WEBHOOK_SECRET');
  });
});

test('metrics count attempts and ends', async () => {
  const count = async (name: string, outcome: string): Promise<number> => {
    const metric = await registry.getSingleMetric(name)?.get();
    return metric?.values.find(({ labels }) => labels.outcome === outcome)?.value ?? 0;
  };
  const counts = () =>
    Promise.all([
      ...['5xx', 'delivered', 'gone'].map((one) => count('pisa_webhook_attempts_total', one)),
      ...['delivered', 'failed'].map((one) => count('pisa_webhooks_total', one)),
    ]);
  const before = await counts();
  let first = true;
  const recovers = await receiverThat((request, response) => {
    answers(first ? 500 : 200)(request, response);
    first = false;
  });
  await untilDelivery((await newJob(recovers.url)).id, 'delivered');
  const gone = await receiverThat(answers(410));
  await untilDelivery((await newJob(gone.url)).id, 'failed');
  expect(await counts()).toEqual(before.map((value) => value + 1));
});
