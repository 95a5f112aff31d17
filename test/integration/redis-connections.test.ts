/** Connections to Redis that look well and are not: silent ones, ones to a server that is a replica by now, wrong databases. */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import path from 'node:path';
import { Worker } from 'bullmq';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { upscaleQueueName } from '../../src/jobs/job.ts';
import { UpscaleQueue } from '../../src/jobs/queue.ts';
import { redisOptions } from '../../src/jobs/redis.ts';
import { openStore } from '../../src/storage/open-store.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { jobData } from '../support/worker.ts';

const image = Buffer.from('the bytes of an image');
const patience = { timeout: 60_000 };
let redis: TestRedis;
let gate: Gate;
let queue: UpscaleQueue;
const closers: (() => Promise<unknown>)[] = [];

interface Gate {
  readonly url: string;
  /** Where connections from now on lead; those that there are stay where they are. */
  leadTo(target: TestRedis): void;
  /** Nothing passes through the connections that there are any more, and neither end is told. */
  silence(): void;
  stop(): Promise<void>;
}

/** What stands between a service and its Redis: an address that moves, a firewall that forgets. */
async function openGate(first: TestRedis): Promise<Gate> {
  let target = first;
  let pairs: [Socket, Socket][] = [];
  const server: Server = createServer((client) => {
    const inner = connect(target.url.slice('unix://'.length));
    client.pipe(inner).pipe(client);
    for (const [one, other] of [
      [client, inner],
      [inner, client],
    ] as const) {
      one.on('error', () => {}).once('close', () => other.destroy());
    }
    pairs.push([client, inner]);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`,
    leadTo: (next) => {
      target = next;
    },
    silence: () => {
      for (const [client, inner] of pairs) {
        client.unpipe(inner).resume();
        inner.unpipe(client).resume();
      }
      pairs = [];
    },
    stop: async () => {
      for (const socket of pairs.flat()) socket.destroy();
      server.close();
    },
  };
}

beforeEach(async () => {
  redis = await startRedis();
  gate = await openGate(redis);
  const folder = path.join(redis.folder, 'objects');
  const store = openStore({ kind: 'folder', folder }, { role: 'producer', sweep: false });
  queue = new UpscaleQueue({ redisUrl: gate.url, store, resultTtlSeconds: 3600 });
  await queue.ready(10_000);
  closers.push(
    () => redis.stop(),
    () => gate.stop(),
    () => queue.close(),
    () => store.close(),
  );
});
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const submit = async (): Promise<string> => {
  const id = randomUUID();
  await queue.submit(id, { image }, jobData(id, image));
  return id;
};
const succeeds = (operation: () => Promise<unknown>) =>
  expect.poll(() => operation().then(Boolean, () => false), patience).toBe(true);

test('a silent connection is given up for a new one, by the api and by a worker', async () => {
  const done: string[] = [];
  const worker = new Worker(upscaleQueueName, async ({ id }) => void done.push(id ?? ''), {
    // A third of the silence that is waited for otherwise, and still more than a blocking command takes here.
    connection: { ...redisOptions(gate.url, 'consumer'), socketTimeout: 10_000 },
  });
  worker.on('error', () => {});
  closers.push(() => worker.close(true));
  const first = await submit();
  await expect.poll(() => done, patience).toEqual([first]);
  gate.silence();
  await succeeds(submit);
  await expect.poll(() => done.length, patience).toBeGreaterThan(1);
}, 60_000);

test('who is told that a primary is a replica by now asks its address anew', async () => {
  await submit();
  const other = await startRedis();
  closers.unshift(() => other.stop());
  gate.leadTo(other);
  await redis.client.replicaof('127.0.0.1', 1);
  await expect(submit()).rejects.toMatchObject({ code: 'redis_unavailable' });
  await succeeds(submit);
  expect(await other.client.keys('bull:upscale:*')).not.toEqual([]);
}, 60_000);

test('a database that Redis does not have ends the start, instead of becoming another', async () => {
  const store = openStore({ kind: 'folder', folder: redis.folder }, { role: 'producer' });
  const at = (database: string) =>
    new UpscaleQueue({ redisUrl: `${gate.url}/${database}`, store, resultTtlSeconds: 60 });
  const [there, wrong] = [at('15'), at('99')];
  closers.push(
    () => there.close(),
    () => wrong.close(),
    () => store.close(),
  );
  await there.ready(10_000);
  await expect(wrong.ready(10_000)).rejects.toMatchObject({
    code: 'invalid_config',
    message: expect.stringMatching(/refuses database 99 of REDIS_URL.*out of range/),
  });
});
