/**
 * `make soak`: MINUTES (30) of mixed load at 90 % of the capacity that is measured before, against a real deployment with
 * the embedded model. Every client deletes what it made, so a service that forgets nothing it should forget is as large
 * after as before. Prints the memory of each process with its slope and the latency of `/healthz`; writes
 * bench/results/soak.md (soak-jemalloc.md with `LD_PRELOAD=libjemalloc.so.2`, which the images have); fails when a process
 * grows, `/healthz` is slow, or an answer was not the one that was due.
 */
import { setTimeout as delay } from 'node:timers/promises';
import {
  type Deployment,
  devicesOfDeployment,
  startDeployment,
} from '../test/support/deployment.ts';
import { residentMegabytes } from '../test/support/processes.ts';
import { startHealthProbe } from './health-probe.ts';
import { describe, grows, growsMeans, type Look, MemoryLog, memoryTable } from './memory.ts';
import { MixedClients, mixedClientsSettings } from './mixed-clients.ts';
import { table, writeResult } from './results.ts';
import { metric, root } from './service.ts';
import { quantile } from './statistics.ts';

const minutes = Number(process.env.MINUTES ?? 30);
const share = 0.9;
/** Of each measurement of the capacity; and before the first, for compilation, caches, the first of everything. */
const capacityMs = Math.min(90_000, 15_000 * minutes);
/** Enough that the device always has a next job, whatever the clients wait for. */
const clientsForCapacity = 32;
/** So many at once are a service that does not keep up. */
const mostClients = 500;
const lookMs = 5000;
const probeMs = 50;
const slowHealthMs = 50;

/** The images of docker/ run with another allocator than glibc's. */
const allocator = process.env.LD_PRELOAD ?? '';
const isJemalloc = allocator.includes('jemalloc');

const bytesPerMegabyte = 2 ** 20;
const deployment = await startDeployment({ root, env: mixedClientsSettings });
await deployment.ready();
const clients = await MixedClients.start(deployment.url);

/** As many clients at once as keep the device busy. @returns clients a second */
async function measureCapacity(ms = capacityMs): Promise<number> {
  const startedAt = performance.now();
  let done = 0;
  const loop = async (): Promise<void> => {
    while (performance.now() - startedAt < ms) {
      await clients.next();
      done += 1;
    }
  };
  await Promise.all(Array.from({ length: clientsForCapacity }, loop));
  return done / ((performance.now() - startedAt) / 1000);
}

/** Arrivals of a Poisson process: bursts and lulls, as clients that know nothing of each other make them. */
async function load(perSecond: number, ms: number): Promise<{ sent: number; mostAtOnce: number }> {
  const running = new Set<Promise<void>>();
  const startedAt = performance.now();
  let [sent, mostAtOnce, dueMs] = [0, 0, 0];
  while (dueMs < ms) {
    // By the clock, not by pauses: a late one does not make all others later.
    dueMs += (-Math.log(1 - Math.random()) * 1000) / perSecond;
    await delay(startedAt + dueMs - performance.now());
    if (running.size >= mostClients) await Promise.race(running);
    const client = clients.next().finally(() => running.delete(client));
    running.add(client);
    sent += 1;
    mostAtOnce = Math.max(mostAtOnce, running.size);
  }
  afterLoad = running;
  return { sent, mostAtOnce };
}
let afterLoad = new Set<Promise<void>>();

/** Resident memory of each process and, where it says so itself, what is in use of it. */
function lookAt({ processes, redis, url, workerUrls }: Deployment): Look {
  return async () => {
    const heap = async (serviceUrl = ''): Promise<number> =>
      (await metric({ url: serviceUrl }, 'nodejs_heap_size_used_bytes')) / bytesPerMegabyte;
    const info = await redis.info('memory');
    const used = Number(/^used_memory:(\d+)/m.exec(info)?.[1]);
    return {
      api: residentMegabytes(processes.api.pid, 'VmRSS'),
      'api, heap in use': await heap(url),
      supervisor: residentMegabytes(processes.workers[0]?.pid ?? 0, 'VmRSS'),
      'supervisor, heap in use': await heap(workerUrls[0]),
      device: residentMegabytes(devicesOfDeployment(deployment)[0] ?? 0, 'VmRSS'),
      redis: residentMegabytes(processes.redis.pid, 'VmRSS'),
      'redis, in use': used / bytesPerMegabyte,
    };
  };
}
const busySeconds = () =>
  metric({ url: deployment.workerUrls[0] ?? '' }, 'pisa_device_busy_seconds_total');

await measureCapacity();
const capacity = await measureCapacity();
await clients.settled();
console.error(`capacity ${capacity.toFixed(2)} clients a second; ${minutes} minutes of load …`);
clients.reset();

const memory = new MemoryLog(lookAt(deployment), lookMs);
const health = startHealthProbe(deployment.url, probeMs);
const device = devicesOfDeployment(deployment).join();
const loadMs = minutes * 60_000;
const [startedAt, busyBefore] = [performance.now(), await busySeconds()];
const { sent, mostAtOnce } = await load(share * capacity, loadMs);
const loadSeconds = (performance.now() - startedAt) / 1000;
const busy = ((await busySeconds()) - busyBefore) / loadSeconds;
const latencies = await health.stop();
const series = memory.stop();
await Promise.all(afterLoad);
await clients.settled();
const drainedSeconds = (performance.now() - startedAt) / 1000 - loadSeconds;
const { served, jobs, refused } = clients;
const results = { served: { ...served }, jobs: { ...jobs }, refused: { ...refused } };
const [jobsSent, faults] = [clients.sent, clients.faults];
const isSameDevice = device === devicesOfDeployment(deployment).join();
const objects = await deployment.objects();
const capacityAfter = await measureCapacity();
await clients.settled();
clients.stop();
const left = await deployment.stop();

const rows = [...series].map(([name, points]) => describe(name, points));
const growing = rows.filter(grows);
const healthMs = (q: number): string => `${quantile(latencies, q).toFixed(1)} ms`;
const counts = (of: Record<string, number>) =>
  Object.entries(of).sort(([a], [b]) => a.localeCompare(b));

writeResult(
  isJemalloc ? 'soak-jemalloc' : 'soak',
  `# Mixed load

\`${allocator === '' ? '' : `LD_PRELOAD=${allocator} `}make soak${minutes === 30 ? '' : ` MINUTES=${minutes}`}\`, ${new Date().toISOString()}. API, worker with one CPU device and Redis with an append-only file as processes of their own, the embedded model, images from 32² to 150 × 100.

${table(['load', ''], [
  ['capacity, measured before', `${capacity.toFixed(2)} clients a second`],
  ['clients sent', `${sent} in ${loadSeconds.toFixed(0)} s, a Poisson process`],
  ['load', `${((100 * sent) / loadSeconds / capacity).toFixed(0)} % of the capacity`],
  ['time that the device had work', `${(100 * busy).toFixed(0)} %`],
  ['most clients at once', mostAtOnce],
  ['until the last ones were served', `${drainedSeconds.toFixed(1)} s`],
  ['capacity, measured after', `${capacityAfter.toFixed(2)} clients a second`],
  ['jobs sent', jobsSent],
  ...counts(results.jobs).map(([end, count]) => [`jobs ${end}`, count]),
  ...counts(results.refused).map(([code, count]) => [
    `requests refused, as due: \`${code}\``,
    count,
  ]),
  ['answers that were not due, failed jobs included', faults],
  ['device processes replaced', isSameDevice ? 0 : 'at least 1'],
  ['objects left in the store, when all clients had deleted theirs', objects.length],
  ['processes left after SIGTERM', left.length],
] as [string, string | number][])}

\`/healthz\`, asked ${latencies.length} times: p50 ${healthMs(0.5)}, p99 ${healthMs(0.99)}, longest ${healthMs(1)}.

${memoryTable(rows)}

A look every ${lookMs / 1000} s; resident memory unless it says "in use". The slope is of the last two thirds, over medians of half a minute, with its 95 % confidence interval; ${growsMeans}.

${table(['clients', 'served'], counts(results.served as Record<string, number>))}
`,
);
const isRight =
  faults + growing.length + objects.length + left.length === 0 &&
  isSameDevice &&
  quantile(latencies, 0.99) < slowHealthMs;
if (!isRight) process.exitCode = 1;
