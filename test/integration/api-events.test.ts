/** Streams of events over real HTTP and Redis. A worker without devices stands for the one that runs graphs. */
import { Worker } from 'bullmq';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { JobObject } from '../../src/api/job-object.ts';
import { outputKey, stages, upscaleQueueName } from '../../src/jobs/job.ts';
import { redisOptions } from '../../src/jobs/redis.ts';
import { metrics } from '../../src/metrics.ts';
import { startApi, type TestApi } from '../support/api.ts';
import { expectContract, faults } from '../support/contract.ts';
import { photo } from '../support/hostile-images.ts';
import { json, send } from '../support/http.ts';
import { leavingClient } from '../support/leaving.ts';
import { openStream, type SseStream } from '../support/sse.ts';

let api: TestApi;
let png: Buffer;
const closers: (() => unknown)[] = [];

beforeEach(async () => {
  api = await startApi({ EVENTS_HEARTBEAT_SECONDS: '1' });
  png = await photo('png', 24, 16);
});
afterEach(async () => {
  vi.restoreAllMocks();
  for (const close of closers.splice(0).reverse()) await close();
  await api.stop();
});

const newJob = async (): Promise<JobObject> => {
  const answer = await send(`${api.url}/upscale`, {
    method: 'POST',
    body: new Uint8Array(png),
    headers: { 'content-type': 'image/png' },
  });
  return json<JobObject>(answer);
};
const watch = async ({ urls }: JobObject, lastEventId?: string): Promise<SseStream> => {
  const options = lastEventId === undefined ? {} : { lastEventId };
  const stream = await openStream(`${api.url}${urls.events}`, options);
  closers.push(() => stream.leave());
  return stream;
};
const brief = ({ events }: SseStream) =>
  events.map(({ name, data }) => (name === 'status' ? data.status : name));

/** Takes jobs and holds each until the test lets it go on. */
const takeJobs = () => {
  const steps: (() => void)[] = [];
  const step = () => new Promise<void>((resolve) => steps.push(resolve));
  const worker = new Worker(
    upscaleQueueName,
    async (job) => {
      await step();
      await job.updateProgress({ stage: 'encode_latents', fraction: 0.25 });
      await step();
      await job.updateProgress({ stage: 'decode_latents', fraction: 0.75 });
      await step();
      return {
        output: {
          key: outputKey(job.id ?? ''),
          width: 96,
          height: 64,
          bytes: 10,
          content_type: 'image/png',
          format: 'png',
          expiresAt: Date.now() + 60_000,
        },
        colorfix: 'none',
        timingsMs: Object.fromEntries(stages.map((stage) => [stage, 1])),
      };
    },
    { connection: redisOptions(api.redis.url, 'consumer') },
  );
  worker.on('error', () => {});
  closers.push(() => worker.close(true));
  return async () => {
    await vi.waitFor(() => expect(steps.length).toBeGreaterThan(0), { timeout: 20_000 });
    steps.shift()?.();
  };
};

test('a job is told from the queue to its end, every event as documented', async () => {
  const job = await newJob();
  const stream = await watch(job);
  expect(stream.status).toBe(200);
  expect(stream.headers.get('content-type')).toBe('text/event-stream');
  expect(stream.headers.get('cache-control')).toBe('no-store');
  expect(stream.headers.get('x-request-id')).not.toBeNull();
  await stream.until(({ name }) => name === 'queue_position');
  const go = takeJobs();
  await stream.until(({ data }) => data.status === 'processing');
  await go();
  await stream.until(({ data }) => data.fraction === 0.25);
  await go();
  await stream.until(({ data }) => data.fraction === 0.75);
  await go();
  await stream.ended;
  expect(brief(stream)).toEqual([
    'queued',
    'queue_position',
    'processing',
    'progress',
    'progress',
    'succeeded',
  ]);
  for (const { name, data } of stream.events) {
    if (name === 'status') expect(faults({ $ref: '#/components/schemas/Job' }, data)).toEqual([]);
  }
  expect(stream.events[1]?.data).toEqual({ queue_position: 0 });
  expect(stream.events[3]?.data).toEqual({ stage: 'encode_latents', fraction: 0.25 });
  expect(new Set(stream.events.map(({ id }) => id)).size).toBe(stream.events.length);
});

test('a client that comes back is told the rest; one that saw the end is told to stop', async () => {
  const job = await newJob();
  const first = await watch(job);
  const go = takeJobs();
  await go();
  const seen = await first.until(({ data }) => data.fraction === 0.25);
  first.leave();
  await go();

  const second = await watch(job, seen.id);
  await second.until(({ data }) => data.fraction === 0.75);
  await go();
  await second.ended;
  expect(brief(second)).toEqual(['progress', 'succeeded']);

  const answer = await send(`${api.url}${job.urls.events}`, {
    headers: { 'last-event-id': second.events.at(-1)?.id ?? '' },
  });
  expectContract(answer, 'getUpscaleEvents');
  expect(answer.status).toBe(204);

  const late = await watch(job);
  await late.ended;
  expect(brief(late)).toEqual(['succeeded']);
});

test('the place in the queue moves as the jobs ahead go, and a cancel ends the stream', async () => {
  const jobs = [await newJob(), await newJob(), await newJob()] as const;
  const stream = await watch(jobs[2]);
  await stream.until(({ data }) => data.queue_position === 2);
  await send(`${api.url}${jobs[0].urls.cancel}`, { method: 'DELETE' });
  await stream.until(({ data }) => data.queue_position === 1);
  await send(`${api.url}${jobs[2].urls.cancel}`, { method: 'DELETE' });
  await stream.ended;
  expect(brief(stream)).toEqual(['queued', 'queue_position', 'queue_position', 'canceled']);
});

test('many watchers of a job cost one look at each change', async () => {
  const job = await newJob();
  const streams = await Promise.all(Array.from({ length: 20 }, () => watch(job)));
  await Promise.all(streams.map((stream) => stream.until(({ data }) => data.status === 'queued')));
  const { values } = await metrics.eventStreams.get();
  expect(values[0]?.value).toBe(20);
  const look = vi.spyOn(api.queue, 'get');
  await send(`${api.url}${job.urls.cancel}`, { method: 'DELETE' });
  await Promise.all(streams.map((stream) => stream.ended));
  for (const stream of streams) expect(stream.events.at(-1)?.data.status).toBe('canceled');
  expect(look.mock.calls.length).toBeLessThan(5);
  await expect.poll(async () => (await metrics.eventStreams.get()).values[0]?.value).toBe(0);
});

test('a job that is deleted says so', async () => {
  const job = await newJob();
  const stream = await watch(job);
  await stream.until(({ data }) => data.status === 'queued');
  await api.redis.client.del(`bull:upscale:${job.id}`);
  await api.redis.client.lrem('bull:upscale:wait', 0, job.id);
  await api.redis.client.xadd('bull:upscale:events', '*', 'event', 'removed', 'jobId', job.id);
  await stream.ended;
  expect(stream.events.at(-1)).toEqual({ name: 'deleted', data: { id: job.id } });
});

test('a client that has left before its stream opens leaves nothing open', async () => {
  const { urls } = await newJob();
  const get = api.queue.get.bind(api.queue);
  const watch = vi.spyOn(api.queue, 'watch');
  vi.spyOn(api.queue, 'get').mockImplementationOnce(async (id) => {
    const job = await get(id);
    await leave();
    return job;
  });
  const leave = leavingClient(api.port, [`GET ${urls.events} HTTP/1.1\r\nHost: x\r\n\r\n`]);
  await vi.waitFor(() => expect(watch).toHaveBeenCalled(), { timeout: 10_000 });
  await expect.poll(async () => (await metrics.eventStreams.get()).values[0]?.value).toBe(0);
});

test('a client that leaves before its pipelined request is answered leaves nothing open', async () => {
  const { urls } = await newJob();
  const watch = vi.spyOn(api.queue, 'watch');
  const get = (url: string) => `GET ${url} HTTP/1.1\r\nHost: x\r\n\r\n`;
  const leave = leavingClient(api.port, [get(urls.events), get(urls.events)]);
  await vi.waitFor(() => expect(watch).toHaveBeenCalledTimes(2), { timeout: 10_000 });
  void leave();
  await expect.poll(async () => (await metrics.eventStreams.get()).values[0]?.value).toBe(0);
});

test('signs of life come while nothing happens, and while Redis is away, and then all goes on', async () => {
  const job = await newJob();
  const stream = await watch(job);
  await stream.until(({ name }) => name === 'queue_position');
  await api.redis.kill();
  const { length } = stream.comments;
  await expect.poll(() => stream.comments.length).toBeGreaterThanOrEqual(length + 2);
  await api.redis.restart();
  await api.queue.ready(10_000);
  await send(`${api.url}${job.urls.cancel}`, { method: 'DELETE' });
  await stream.ended;
  expect(brief(stream)).toEqual(['queued', 'queue_position', 'canceled']);
});

describe('what is refused, or ended', () => {
  test('an unknown job, a HEAD, a query', async () => {
    const id = '00000000-0000-4000-8000-000000000000';
    const unknown = await send(`${api.url}/upscale/${id}/events`);
    expectContract(unknown, 'getUpscaleEvents');
    expect(json(unknown).code).toBe('job_not_found');
    const head = await send(`${api.url}/upscale/${id}/events`, { method: 'HEAD' });
    expect(head.status).toBe(405);
    expect((await send(`${api.url}/upscale/${id}/events?a=1`)).status).toBe(422);
  });

  test('a shutdown ends every stream at once; the client knows where to go on', async () => {
    const job = await newJob();
    const stream = await watch(job);
    const { id } = await stream.until(({ name }) => name === 'queue_position');
    await api.server.close();
    await stream.ended;
    expect(id).toBe('queued/0');
  });
});
