/** The probes of a worker, as a load balancer and Prometheus see them. */
import { Counter, Registry } from 'prom-client';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type HealthServer, startHealthServer } from '../../../src/commands/health-server.ts';

const registry = new Registry();
new Counter({ name: 'pisa_test_total', help: 'Of this test.', registers: [registry] });
let ready = false;
let server: HealthServer;

beforeEach(async () => {
  const isReady = () => ready;
  server = await startHealthServer({ host: '127.0.0.1', port: 0, registry, isReady });
});
afterEach(() => server.close());

async function ask(path: string): Promise<{ status: number; body: string; cache: string | null }> {
  const answer = await fetch(`http://127.0.0.1:${server.port}${path}`);
  const { status, headers } = answer;
  return { status, body: await answer.text(), cache: headers.get('cache-control') };
}

test('/readyz follows the devices, /healthz does not, and nobody may keep either', async () => {
  const cache = 'no-store';
  const alive = { status: 200, body: '{"status":"ok"}', cache };
  expect(await ask('/readyz')).toEqual({ status: 503, body: '{"ready":false}', cache });
  expect(await ask('/healthz')).toEqual(alive);
  ready = true;
  expect(await ask('/readyz')).toEqual({ status: 200, body: '{"ready":true}', cache });
  expect(await ask('/healthz')).toEqual(alive);
});

test('/metrics is the registry, and all else is 404', async () => {
  expect(await ask('/metrics')).toMatchObject({
    status: 200,
    body: expect.stringContaining('pisa_test_total 0'),
  });
  expect(await ask('/upscale')).toMatchObject({ status: 404 });
});
