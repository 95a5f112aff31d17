/**
 * More events for one host, or of one client, than there is room for: they are put off, and the metric says for how long.
 * A real Redis, no worker.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import path from 'node:path';
import { Queue } from 'bullmq';
import pino from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { UpscaleQueue } from '../../src/jobs/queue.ts';
import { connectRedis } from '../../src/jobs/redis.ts';
import { type DeliveryData, type DeliveryQueue, webhookQueueName } from '../../src/jobs/webhook.ts';
import { openStore } from '../../src/storage/open-store.ts';
import { Deliverer } from '../../src/webhooks/deliverer.ts';
import { type Receiver, startReceiver } from '../support/receiver.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { jobData, workerConfig } from '../support/worker.ts';

const minuteMs = 60_000;
let redis: TestRedis;
let queue: UpscaleQueue;
let deliveries: DeliveryQueue;
let deliverer: Deliverer;
let receiver: Receiver;
let held: ServerResponse[] | undefined;
const closers: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  redis = await startRedis();
  const location = { kind: 'folder', folder: path.join(redis.folder, 'objects') } as const;
  const store = openStore(location, { role: 'producer', sweep: false });
  queue = new UpscaleQueue({ redisUrl: redis.url, store, resultTtlSeconds: 3600 });
  await queue.ready(10_000);
  const connection = connectRedis(redis.url, 'consumer');
  deliveries = new Queue(webhookQueueName, { connection });
  held = [];
  // Of all addresses of this machine: each is a host of its own.
  receiver = await startReceiver(
    (_request, response) => {
      if (held) held.push(response);
      else response.writeHead(204).end();
    },
    { host: '0.0.0.0' },
  );
  deliverer = new Deliverer({
    config: workerConfig({
      WEBHOOK_SECRET: `whsec_${randomBytes(32).toString('base64')}`,
      API_KEYS_FILE: 'keys.json',
      WEBHOOK_ALLOWED_HOSTS: '127.0.0.0/8',
      WEBHOOK_TIMEOUT_SECONDS: '60',
      WEBHOOKS_IN_FLIGHT: '20',
      WEBHOOKS_IN_FLIGHT_PER_HOST: '2',
    }),
    redisUrl: redis.url,
    queue,
    logger: pino({ level: 'silent' }),
  });
  await deliverer.ready;
  closers.push(
    () => deliverer.close(),
    () => receiver.stop(),
    () => deliveries.close(),
    async () => connection.disconnect(),
    () => queue.close(),
    () => store.close(),
    () => redis.stop(),
  );
});
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

/** A delivery of a job that ended then, and whose last attempt, if there was one, set the next one to `nextAt`. */
async function addDelivery(
  completedAt: number,
  nextAt?: number,
  { host = '127.0.0.1', client = 'shop' } = {},
): Promise<string> {
  const id = randomUUID();
  const data: DeliveryData = {
    url: `http://${host}:${receiver.port}/`,
    client,
    ended: {
      id,
      status: 'failed',
      data: jobData(id, Buffer.from('')),
      createdAt: completedAt,
      completedAt,
      error: { code: 'corrupt_image', detail: 'It is damaged.' },
    },
    ...(nextAt === undefined
      ? {}
      : { lastFailure: { at: completedAt, fault: 'It answered 500.', nextAt } }),
  };
  await deliveries.add('deliver', data, { jobId: id, attempts: 2, backoff: { type: 'custom' } });
  return id;
}

const untilDelayed = (count: number) =>
  expect
    .poll(() => deliveries.getJobCountByTypes('delayed'), { timeout: 10_000, interval: 5 })
    .toBe(count);
const oldestDueMs = async (): Promise<number> => (await queue.observe()).webhooks.oldestDueMs;

/** Two that hold the slots of the host, of jobs that have just ended. */
async function takeSlots(): Promise<void> {
  await Promise.all([addDelivery(Date.now()), addDelivery(Date.now())]);
  await expect.poll(() => receiver.received.length, { timeout: 10_000 }).toBe(2);
}

test('what is put off counts as due since its job ended, until it is delivered', async () => {
  await takeSlots();
  expect(await oldestDueMs()).toBe(0);
  await addDelivery(Date.now() - 10 * minuteMs);
  await addDelivery(Date.now() - 2 * minuteMs);
  await untilDelayed(2);
  for (let looks = 0; looks < 20; looks += 1) {
    const dueMs = await oldestDueMs();
    expect(dueMs).toBeGreaterThanOrEqual(10 * minuteMs);
    expect(dueMs).toBeLessThan(11 * minuteMs);
  }
  const answered = held ?? [];
  held = undefined;
  for (const response of answered) response.writeHead(204).end();
  await expect.poll(() => deliveries.getJobCountByTypes('completed'), { timeout: 30_000 }).toBe(4);
  await expect.poll(oldestDueMs, { timeout: 10_000 }).toBe(0);
  expect(await redis.client.zcard('pisa:webhooks:put-off')).toBe(0);
});

test('after a failed attempt it is due since its wait ended', async () => {
  await takeSlots();
  await addDelivery(Date.now() - 600 * minuteMs, Date.now() - 3 * minuteMs);
  await untilDelayed(1);
  const dueMs = await oldestDueMs();
  expect(dueMs).toBeGreaterThanOrEqual(3 * minuteMs);
  expect(dueMs).toBeLessThan(4 * minuteMs);
});

test('one that waits for its next attempt is not due, and one that is gone is forgotten', async () => {
  await takeSlots();
  const id = await addDelivery(Date.now() - 10 * minuteMs);
  await untilDelayed(1);
  // Not in the moment in which it asks for a slot.
  await expect.poll(() => deliveries.remove(id), { timeout: 10_000 }).toBe(1);
  expect(await oldestDueMs()).toBe(0);
  const data = { url: `http://127.0.0.1:${receiver.port}/` };
  await deliveries.add('deliver', data, { jobId: randomUUID(), delay: minuteMs });
  await untilDelayed(1);
  expect(await oldestDueMs()).toBe(0);
});

test('a client whose hosts are all slow keeps only its own events waiting', async () => {
  const hosts = Array.from({ length: 12 }, (_, i) => `127.0.0.${i + 2}`);
  for (const host of hosts) await addDelivery(Date.now(), undefined, { host, client: 'evil' });
  // Of 20 in flight a quarter is its own.
  await untilDelayed(7);
  await expect.poll(() => receiver.received.length).toBe(5);
  held = undefined;
  const id = await addDelivery(Date.now());
  await expect
    .poll(async () => (await deliveries.getJob(id))?.finishedOn, { timeout: 10_000, interval: 5 })
    .toBeTypeOf('number');
});

test('a delivery says whose it is', async () => {
  const id = randomUUID();
  const image = Buffer.from('image');
  const webhook = { url: 'https://hooks.example/', attempts: 1 };
  await queue.submit(id, { image }, { ...jobData(id, image), client: 'shop', webhook });
  expect((await deliveries.getJob(id))?.data).toEqual({ url: webhook.url, client: 'shop' });
});
