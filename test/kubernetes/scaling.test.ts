/**
 * Workers follow the queue: the chart's ScaledObject, KEDA (SCALER=keda) or what stands in for it, Kubernetes' own
 * autoscaler and controllers, and a real Redis with the service's BullMQ queue. The load steps from nothing to some,
 * to ten times as much, to nothing. Each pod that the controllers make is a BullMQ worker in this process, whose jobs
 * take a fixed time; it ends as ours do, when its job is done, and reports what it runs by the service's own code.
 */
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Job, Queue, Worker } from 'bullmq';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { upscaleQueueName } from '../../src/jobs/job.ts';
import { redisOptions } from '../../src/jobs/redis.ts';
import { startPodDeletionCost } from '../../src/worker/pod-deletion-cost.ts';
import { freePort } from '../support/processes.ts';
import { Cluster } from './cluster.ts';
import { kedaDefinitionFiles } from './definitions.ts';
import { chart } from './helm.ts';
import { startKeda } from './keda.ts';
import { standInForKeda } from './keda-stand-in.ts';
import type { KubernetesObject } from './kubernetes-api.ts';
import { playNodes } from './nodes.ts';
import { followed, type Sample, scalingTable } from './scaling-table.ts';

const namespace = 'scaling';

/** Small, so that the test takes minutes; the chart's own are for pods that take longer to start. */
const scaling = {
  mode: 'keda',
  minReplicas: 0,
  maxReplicas: 12,
  secondsPerJob: 1,
  latencyTargetSeconds: 4,
  pollingIntervalSeconds: 5,
  cooldownSeconds: 15,
  scaleDownStabilizationSeconds: 20,
  scaleDownPercent: 100,
};
/** As Kubernetes has it. */
const hpaSyncSeconds = 15;
const longJobSeconds = 120;

interface Pod {
  name: string;
  worker: Worker;
  running: () => string | undefined;
  stop: () => void;
}

let cluster: Cluster;
let redisUrl: string;
let queue: Queue;
let stopNodes: () => Promise<void>;
let stopStandIn: () => Promise<void>;
const pods = new Map<string, Pod>();
/** How often each job was started, and where. */
const starts = new Map<string, string[]>();
/** Pods that were told to end while they ran a job, and while an idle one was there. */
const ended = { all: 0, busy: 0, busyBesideIdle: 0, withLongJob: 0 };
let longJob = '';

const connection = () => redisOptions(redisUrl, 'consumer');

beforeAll(async () => {
  cluster = await Cluster.start(hpaSyncSeconds);
  redisUrl = await startRedis();
  queue = new Queue(upscaleQueueName, { connection: connection() });
  await cluster.addDefinitions(await kedaDefinitionFiles());
  stopNodes = await playNodes(cluster, { start: startPod, end: endPod });
  await cluster.makeNamespace(namespace);
  const { port, password } = new URL(redisUrl);
  await cluster.create('Secret', namespace, {
    metadata: { name: 'queue' },
    data: { 'redis-password': Buffer.from(password).toString('base64') },
  });
  const values = {
    ...{ 'podDeletionCost.enabled': true, 'redis.internal.enabled': false },
    ...{ 'redis.external.host': '127.0.0.1', 'redis.external.port': port },
    'redis.external.existingSecret': 'queue',
    ...Object.fromEntries(
      Object.entries(scaling).map(([name, value]) => [`workerDefaults.scaling.${name}`, value]),
    ),
  };
  await cluster.helm(
    ...([namespace, 'install', '--values', path.join(chart, 'values-laptop.yaml')] as const),
    ...Object.entries(values).flatMap(([name, value]) => ['--set', `${name}=${value}`]),
  );
  if (process.env.SCALER === 'keda') await startKeda(cluster);
  else stopStandIn = await standInForKeda(cluster, namespace, cluster.nameOf('worker-cpu'));
});
afterAll(async () => {
  try {
    await stopStandIn?.();
    await stopNodes?.();
    for (const pod of pods.values()) pod.stop();
    await Promise.all([...pods.values()].map(({ worker }) => worker.close(true)));
    await queue?.close();
  } finally {
    await cluster?.stop();
  }
});

/** With a password, as the chart's. @returns its address */
async function startRedis(): Promise<string> {
  const [port, password] = [await freePort(), randomBytes(16).toString('hex')];
  const { programs } = cluster.plane;
  programs.start('redis', 'redis-server', [
    ...['--port', `${port}`, '--bind', '127.0.0.1', '--requirepass', password],
    ...['--save', '', '--maxmemory-policy', 'noeviction'],
  ]);
  await programs.until('redis', () => /Ready to accept/i.test(programs.logTail('redis')));
  return `redis://:${password}@127.0.0.1:${port}`;
}

async function startPod(pod: KubernetesObject): Promise<void> {
  const { metadata } = pod;
  if (metadata.labels?.['pisa-serve/role'] !== 'worker') return;
  let running: string | undefined;
  const run = async ({ id = '', data }: Job<{ seconds: number }>) => {
    starts.set(id, [...(starts.get(id) ?? []), metadata.name]);
    running = id;
    await delay(data.seconds * 1000);
    running = undefined;
  };
  const report = startPodDeletionCost({
    config: { KUBERNETES_POD: metadata.name, KUBERNETES_API_URL: cluster.plane.url },
    logger: pino({ level: 'silent' }),
    jobs: () => (running === undefined ? 0 : 1),
    accountFolder: (await cluster.mountAccount(pod)).folder,
    intervalMs: 500,
  });
  const worker = new Worker(upscaleQueueName, run, { connection: connection(), concurrency: 1 });
  const stop = () => report.stop();
  pods.set(metadata.uid ?? '', { name: metadata.name, worker, running: () => running, stop });
}

async function endPod({ metadata }: KubernetesObject): Promise<void> {
  const pod = pods.get(metadata.uid ?? '');
  if (!pod) return;
  pods.delete(metadata.uid ?? '');
  const isIdle = ({ running }: Pod) => running() === undefined;
  ended.all += 1;
  if (!isIdle(pod)) ended.busy += 1;
  if (!isIdle(pod) && [...pods.values()].some(isIdle)) ended.busyBesideIdle += 1;
  if (pod.running() === longJob) ended.withLongJob += 1;
  await pod.worker.close();
  pod.stop();
}

/** Read apart from KEDA, from the Deployment and the queue. */
async function sample(startedAt: number): Promise<Sample> {
  const { spec } = await cluster.get('Deployment', namespace, cluster.nameOf('worker-cpu'));
  const jobs = await queue.getJobCountByTypes('waiting', 'prioritized', 'delayed', 'active');
  const asked = Math.ceil((jobs * scaling.secondsPerJob) / scaling.latencyTargetSeconds);
  const wanted = Math.min(scaling.maxReplicas, asked);
  return { seconds: (Date.now() - startedAt) / 1000, jobs, wanted, pods: spec.replicas };
}

test('workers follow a load of 0, 1, 10 and 0; no job is dropped or run twice; the busy one stays; the last one goes', async () => {
  const samples: Sample[] = [];
  const startedAt = Date.now();
  let watching = true;
  const watcher = (async () => {
    while (watching) {
      samples.push(await sample(startedAt));
      await delay(500);
    }
  })();
  const now = () => samples.at(-1)?.pods;
  const most = () => Math.max(...samples.map((at) => at.pods));
  const wait = { timeout: 240_000 };

  // KEDA takes away the one that a Deployment starts with.
  await expect.poll(now, wait).toBe(0);
  let sent = 0;
  /** Every tenth job has a priority, so that both of BullMQ's lists of waiting jobs are in use. */
  const send = async (seconds: number) => {
    sent += 1;
    const options = { jobId: `j${sent}`, ...(sent % 10 ? {} : { priority: 5 }) };
    await queue.add('upscale', { seconds }, options);
  };
  const load = async (jobs: number, perSecond: number) => {
    for (let job = 0; job < jobs; job += 1) {
      await send(scaling.secondsPerJob);
      await delay(1000 / perSecond);
    }
  };
  const tenfold = 6;
  await load(20, tenfold / 10);
  const single = most();
  // It starts while pods are only added, so that its pod has noted it before any is taken away.
  await send(longJobSeconds);
  longJob = `j${sent}`;
  await load(360, tenfold);
  await expect.poll(() => queue.getCompletedCount(), wait).toBe(sent);
  await expect.poll(now, wait).toBe(0);
  await expect.poll(() => pods.size, wait).toBe(0);
  watching = false;
  await watcher;
  process.stdout.write(scalingTable(samples, { sent, single, most: most(), ...ended }));

  // So many are needed to keep up with the tenfold load.
  expect(single).toBeGreaterThan(0);
  expect(most()).toBeGreaterThanOrEqual(tenfold * scaling.secondsPerJob);
  // All others went first.
  expect(ended.withLongJob).toBe(0);
  expect(followed(samples).every(({ reached }) => reached)).toBe(true);
  // Each job ran once, to its end, whatever was removed meanwhile.
  expect([...starts.values()].filter((names) => names.length !== 1)).toEqual([]);
  const completed = await queue.getCompleted(0, sent);
  expect(completed.map((job) => [job.attemptsMade, job.stalledCounter])).toEqual(
    Array(sent).fill([1, 0]),
  );
  expect(await queue.getFailedCount()).toBe(0);
});
