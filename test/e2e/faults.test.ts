/** Nothing accepted is lost, whichever process is killed and however long Redis is away. `make faults` does more of it. */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { type Deployment, startDeployment, toyModelSettings } from '../support/deployment.ts';
import { runFaults } from '../support/faults.ts';
import { openStream } from '../support/sse.ts';
import { photo, root } from './service.ts';

let deployment: Deployment;
const start = async (workers = 1) => {
  deployment = await startDeployment({
    root,
    workers,
    env: toyModelSettings(root),
  });
  await deployment.ready();
};
afterEach(async () => {
  expect(await deployment.stop()).toEqual([]);
});

const body = () => new Uint8Array(readFileSync(photo('cat-128.jpg')));
const post = (headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`${deployment.url}/upscale`, {
    method: 'POST',
    headers: { 'content-type': 'image/jpeg', ...headers },
    body: body(),
  });
const newJob = async (): Promise<string> => {
  const answer = await post();
  expect(answer.status).toBe(202);
  return ((await answer.json()) as { id: string }).id;
};
const statusOf = async (id: string): Promise<string> => {
  const answer = await fetch(`${deployment.url}/upscale/${id}`).catch(() => undefined);
  return answer?.ok ? ((await answer.json()) as { status: string }).status : 'away';
};
const untilSucceeded = (id: string) =>
  expect.poll(() => statusOf(id), { timeout: 240_000, interval: 200 }).toBe('succeeded');

test('what an API has accepted is done, although it was killed', async () => {
  await start();
  const ids = [await newJob(), await newJob(), await newJob()];
  const { api } = deployment.processes;
  await api.end('SIGKILL');
  expect(await statusOf(ids[0] ?? '')).toBe('away');
  api.start();
  for (const id of ids) await untilSucceeded(id);
}, 300_000);

test('Redis away for 30 s: 503 with Retry-After at once, then everything goes on', async () => {
  await start();
  const ids = [await newJob(), await newJob(), await newJob(), await newJob()];
  const stream = await openStream(`${deployment.url}/upscale/${ids[3]}/events`);
  const { redis } = deployment.processes;
  await redis.end('SIGKILL');
  const backAt = Date.now() + 30_000;
  let refused = 0;
  while (Date.now() < backAt) {
    const answer = await post();
    expect(answer.status).toBe(503);
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(((await answer.json()) as { code: string }).code).toBe('redis_unavailable');
    expect((await fetch(`${deployment.url}/healthz`)).status).toBe(200);
    refused += 1;
    await delay(500);
  }
  // Answered at once: had each waited for a command's time to run out (5 s), there would have been five.
  expect(refused).toBeGreaterThan(8);
  redis.start();
  for (const id of ids) await untilSucceeded(id);
  await stream.until(({ name, data }) => name === 'status' && data.status === 'succeeded');
  await stream.ended;
  expect((await post({ prefer: 'wait=60' })).ok).toBe(true);
}, 600_000);

test('jobs under random kills of every kind of process: each ends, with one right result', async () => {
  await start(2);
  const report = await runFaults(deployment, {
    jobs: 40,
    meanPauseMs: 1500,
    maxKills: 8,
    limitMs: 540_000,
  });
  const { jobs } = report;
  expect(jobs).toBeGreaterThanOrEqual(40);
  expect(report).toMatchObject({
    statuses: { succeeded: jobs },
    distinctIds: jobs,
    rightResults: jobs,
    leftInQueue: 0,
    orphanKeys: [],
    orphanObjects: [],
    orphanProcesses: 0,
  });
  expect(Object.values(report.kills).every((count) => count > 0)).toBe(true);
}, 600_000);
