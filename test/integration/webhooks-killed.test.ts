/**
 * Every event arrives at least once, whichever process is killed at whichever moment: real processes, SIGKILL.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import path from 'node:path';
import { Webhook } from 'standardwebhooks';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Build, buildService, root } from '../support/build.ts';
import { answers, type Behaviour, type Receiver, startReceiver } from '../support/receiver.ts';
import {
  startWorkerBench,
  startWorkerProcess,
  testImage,
  type WorkerBench,
  type WorkerProcess,
  workerConfig,
} from '../support/worker.ts';

const secret = `whsec_${randomBytes(24).toString('base64')}`;
const settings = {
  WEBHOOK_SECRET: secret,
  WEBHOOK_ALLOWED_HOSTS: '127.0.0.1',
  WEBHOOK_TIMEOUT_SECONDS: '30',
  WEBHOOK_RETRY_SECONDS: Array(40).fill('0.1').join(','),
};
const times = { lockMs: 1000, stalledCheckMs: 500 };

interface Killable {
  kill(signal: NodeJS.Signals): Promise<unknown>;
}

let build: Build;
let bench: WorkerBench;
let receiver: Receiver;
let behaviour: Behaviour;
const processes = new Set<Killable>();

beforeEach(async () => {
  build = await buildService();
  bench = await startWorkerBench(build);
  behaviour = answers(200);
  receiver = await startReceiver((request, response) => behaviour(request, response));
});
afterEach(async () => {
  await Promise.all([...processes].map((one) => one.kill('SIGKILL')));
  processes.clear();
  await receiver.stop();
  await bench.stop();
  await build.remove();
});

async function startDelivererProcess(): Promise<Killable> {
  const program = path.join(root, 'test/support/webhooks-process.mjs');
  const options = {
    config: workerConfig(settings),
    redisUrl: bench.redis.url,
    store: bench.storeLocation,
    times,
  };
  const args = [program, build.folder, JSON.stringify(options)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const early = exited.then(() => Promise.reject(new Error('The deliverer ended at its start.')));
  early.catch(() => {});
  await Promise.race([once(child.stdout, 'data'), early]);
  const started = {
    kill: async (signal: NodeJS.Signals) => {
      child.kill(signal);
      await exited;
      processes.delete(started);
    },
  };
  processes.add(started);
  return started;
}

async function startKillableWorker(): Promise<WorkerProcess> {
  const worker = await startWorkerProcess(bench);
  processes.add(worker);
  return worker;
}

const submit = (image: Uint8Array) =>
  bench.submit(image, {}, { webhook: { url: receiver.url, attempts: 41 } });
const eventOf = (index: number) => {
  const { headers, body } = receiver.received[index] ?? expect.fail('nothing received');
  return new Webhook(secret).verify(body, headers as Record<string, string>) as {
    type: string;
    data: { id: string; status: string };
  };
};
const untilReceived = (count: number) =>
  expect
    .poll(() => receiver.received.length, { timeout: 60_000, interval: 20 })
    .toBeGreaterThanOrEqual(count);

test('a deliverer killed while the receiver thinks: the next one delivers the same event', async () => {
  await (await bench.startWorker()).ready;
  behaviour = () => {};
  const first = await startDelivererProcess();
  const id = await submit(await testImage(24));
  await untilReceived(1);
  await first.kill('SIGKILL');
  behaviour = answers(200);
  await startDelivererProcess();
  await untilReceived(2);
  expect(eventOf(1)).toMatchObject({ type: 'upscale.succeeded', data: { id } });
  expect(receiver.received[1]?.headers['webhook-id']).toBe(id);
  expect(receiver.received[1]?.body).toBe(receiver.received[0]?.body);
});

test('no api is there when jobs end, and one is deleted: events wait for the next', async () => {
  await (await bench.startWorker()).ready;
  const small = await testImage(24);
  const ids = await Promise.all([submit(small), submit(small)]);
  for (const id of ids) await bench.ended(id);
  const [kept = '', deleted = ''] = ids;
  expect(await bench.queue.remove(deleted)).toEqual({ outcome: 'deleted' });
  expect((await bench.queue.observe()).webhooks.pending).toBe(2);
  await startDelivererProcess();
  await untilReceived(2);
  const events = [eventOf(0), eventOf(1)];
  expect(events.map(({ type }) => type)).toEqual(['upscale.succeeded', 'upscale.succeeded']);
  expect(events.map(({ data }) => data.id).sort()).toEqual([kept, deleted].sort());
});

test('workers, deliverers and Redis killed again and again: every job, every event', async () => {
  let count = 0;
  // A third of all answers is a fault, and each takes a moment in which its sender may die.
  behaviour = (request, response) => {
    count += 1;
    const status = count % 3 === 0 ? 500 : 200;
    setTimeout(() => answers(status)(request, response), 30);
  };
  const [small, large] = [await testImage(24), await testImage(200)];
  const ids = new Set(
    await Promise.all(Array.from({ length: 24 }, (_, i) => submit(i % 4 === 0 ? large : small))),
  );
  const told = new Set<string>();
  const tell = () => {
    for (const index of receiver.received.keys()) told.add(eventOf(index).data.id);
    return told.size;
  };
  for (const victim of ['worker', 'deliverer', 'redis', 'worker', 'deliverer'] as const) {
    const worker = await startKillableWorker();
    const deliverer = await startDelivererProcess();
    const before = tell();
    await expect
      .poll(tell, { timeout: 60_000, interval: 5 })
      .toBeGreaterThanOrEqual(Math.min(ids.size, before + 2));
    if (victim === 'redis') {
      await bench.redis.kill();
      await bench.redis.restart();
    }
    if (victim !== 'worker') await deliverer.kill('SIGKILL');
    if (victim !== 'deliverer') {
      await worker.kill('SIGKILL');
      processes.delete(worker);
    }
    for (const left of [...processes]) await left.kill('SIGKILL');
    processes.clear();
  }
  await startKillableWorker();
  await startDelivererProcess();
  await expect.poll(tell, { timeout: 90_000, interval: 50 }).toBe(ids.size);
  expect([...told].sort()).toEqual([...ids].sort());
  // Each job has one final state, and its event says that one.
  for (const index of receiver.received.keys()) {
    const { type, data } = eventOf(index);
    expect(type).toBe(`upscale.${data.status}`);
    expect((await bench.queue.get(data.id))?.status).toBe(data.status);
  }
  await expect
    .poll(async () => (await bench.queue.observe()).webhooks.pending, { timeout: 60_000 })
    .toBe(0);
});
