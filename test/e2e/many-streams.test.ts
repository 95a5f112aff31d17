/** A thousand clients that each follow a waiting job: what that costs the api and its Redis. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Agent, get, type IncomingMessage } from 'node:http';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { residentMegabytes } from '../support/processes.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { cli, logged, photo } from './service.ts';

const clientCount = 1000;
const jobCount = 100;
const maxApiMegabytes = 300;

let redis: TestRedis;
let api: ChildProcess;
let url: string;

beforeAll(async () => {
  redis = await startRedis();
  // No worker: every job waits.
  const child = spawn(process.execPath, [cli, 'api'], {
    env: { ...process.env, REDIS_URL: redis.url, PORT: '0', LOG_LEVEL: 'info' },
    stdio: ['ignore', 'inherit', 'pipe'],
  });
  api = child;
  url = String((await logged(child, 'api is listening')).url);
});
afterAll(async () => {
  const exited = once(api, 'exit');
  api.kill('SIGTERM');
  await exited;
  await redis.stop();
});

interface Client {
  text: string;
  ended: boolean;
}

/** Of its own connection, as every browser has one. */
async function follow(id: string, agent: Agent): Promise<Client> {
  const request = get(`${url}/upscale/${id}/events`, { agent });
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  expect(response.statusCode).toBe(200);
  const client: Client = { text: '', ended: false };
  response.setEncoding('utf8').on('data', (chunk: string) => {
    client.text += chunk;
  });
  response.on('end', () => {
    client.ended = true;
  });
  return client;
}

const memoryOf = (field: 'VmRSS' | 'VmHWM'): number => residentMegabytes(api.pid ?? 0, field);

/** Connections of Redis by the command that they ran last. */
async function connectionsOf(command: string): Promise<number> {
  const list = (await redis.client.client('LIST')) as string;
  return list.split('\n').filter((line) => line.includes(` cmd=${command} `)).length;
}

test('a thousand waiting clients: one reader of the event stream, bounded memory, all are told', async () => {
  const body = new Uint8Array(readFileSync(photo('cat-128.jpg')));
  const ids: string[] = [];
  for (let n = 0; n < jobCount; n += 1) {
    const headers = { 'content-type': 'image/jpeg' };
    const answer = await fetch(`${url}/upscale?sem=${n / jobCount}`, {
      method: 'POST',
      body,
      headers,
    });
    expect(answer.status).toBe(202);
    ids.push(((await answer.json()) as { id: string }).id);
  }
  const before = memoryOf('VmRSS');
  const agent = new Agent({ maxSockets: Number.POSITIVE_INFINITY });
  const clients = await Promise.all(
    Array.from({ length: clientCount }, async (_, n) => {
      const id = ids[n % jobCount] ?? '';
      return { id, client: await follow(id, agent) };
    }),
  );
  const all = (fits: (client: Client, id: string) => boolean) =>
    expect
      .poll(() => clients.filter(({ client, id }) => fits(client, id)).length, { timeout: 60_000 })
      .toBe(clientCount);
  await all(({ text }, id) => text.includes(`{"queue_position":${ids.indexOf(id)}}`));
  const metrics = await (await fetch(`${url}/metrics`)).text();
  expect(metrics).toContain(`pisa_event_streams ${clientCount}\n`);

  expect(await connectionsOf('xread')).toBe(1);
  expect(await connectionsOf('subscribe')).toBe(0);
  const [now, connections] = [memoryOf('VmRSS'), await redis.client.client('LIST')];
  const redisConnections = (connections as string).trim().split('\n').length - 1;

  // The first job goes: its clients are told so and let go, all others move up.
  const [first = ''] = ids;
  await fetch(`${url}/upscale/${first}`, { method: 'DELETE' });
  await all(({ text, ended }, id) =>
    id === first
      ? ended && text.includes('"status":"canceled"')
      : !ended && text.includes(`{"queue_position":${ids.indexOf(id) - 1}}`),
  );
  const peak = memoryOf('VmHWM');
  process.stdout.write(
    `${clientCount} streams of ${jobCount} jobs: api ${before.toFixed(0)} MB before, ${now.toFixed(0)} MB with them, ` +
      `${peak.toFixed(0)} MB at most; ${redisConnections} Redis connections, 1 stream reader\n`,
  );
  expect(peak).toBeLessThan(maxApiMegabytes);
  agent.destroy();
});
