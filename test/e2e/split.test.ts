/** Api and workers as processes of their own on one Redis, as docs/operations.md runs them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { cli, logged, photo } from './service.ts';

let redis: TestRedis;
const started: ChildProcess[] = [];

beforeAll(async () => {
  redis = await startRedis();
});
afterAll(async () => {
  await Promise.all(started.map(end));
  await redis.stop();
});

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  await exited;
}

/** On ports that it picks itself. */
function start(command: 'api' | 'worker') {
  const child = spawn(process.execPath, [cli, command], {
    env: { ...process.env, REDIS_URL: redis.url, PORT: '0', WORKER_PORT: '0', LOG_LEVEL: 'info' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  started.push(child);
  return child;
}

const statusOf = (url: string): Promise<number> =>
  fetch(url).then(
    (response) => response.status,
    () => 0,
  );

test('api alone is alive but not ready; with a worker it serves; without one again jobs wait', async () => {
  const { url: api } = await logged(start('api'), 'api is listening');
  await expect.poll(() => statusOf(`${api}/healthz`)).toBe(200);
  expect(await statusOf(`${api}/readyz`)).toBe(503);
  // What a load balancer asks, so that jobs are accepted while workers are scaled to none.
  expect(await statusOf(`${api}/readyz?exclude=devices`)).toBe(200);
  expect(await statusOf(`${api}/readyz?exclude=redis`)).toBe(422);

  const worker = start('worker');
  const { probes: port } = await logged(worker, 'worker is ready');
  await expect.poll(() => statusOf(`${api}/readyz`), { timeout: 60_000 }).toBe(200);
  const probes = `http://127.0.0.1:${port}`;
  expect(await statusOf(`${probes}/healthz`)).toBe(200);
  expect(await statusOf(`${probes}/readyz`)).toBe(200);

  const send = (headers: Record<string, string>): Promise<Response> =>
    fetch(`${api}/upscale?scale=2`, {
      method: 'POST',
      headers: { 'content-type': 'image/jpeg', ...headers },
      body: new Uint8Array(readFileSync(photo('cat-128.jpg'))),
    });
  const served = await send({ accept: 'image/png' });
  expect(served.status).toBe(200);
  expect(served.headers.get('content-type')).toBe('image/png');

  const metrics = await (await fetch(`${probes}/metrics`)).text();
  expect(metrics).toMatch(
    /pisa_stage_duration_seconds_count\{[^}]*stage="predict_residual"[^}]*\} 1/,
  );
  expect(metrics).toMatch(/pisa_jobs_total\{status="succeeded",code="",model="pisa-tiny"\} 1/);

  await end(worker);
  expect(worker.exitCode).toBe(0);
  await expect.poll(() => statusOf(`${api}/readyz`)).toBe(503);
  // The stored result of the same image would answer at once.
  const waiting = (await (await send({ 'cache-control': 'no-cache' })).json()) as {
    id: string;
    status: string;
  };
  expect(waiting.status).toBe('queued');
  await logged(start('worker'), 'worker is ready');
  const result = `${api}/upscale/${waiting.id}/result`;
  await expect.poll(() => statusOf(result), { timeout: 60_000 }).toBe(200);
});

test.each(['api', 'worker'])('%s without REDIS_URL says what to set', async (command) => {
  const child = spawn(process.execPath, [cli, command], {
    env: { ...process.env, REDIS_URL: '' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  const [code] = await once(child, 'exit');
  expect(code).toBe(1);
  expect(text).toContain('REDIS_URL');
});
