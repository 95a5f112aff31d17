import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { pino } from 'pino';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { startPodDeletionCost } from '../../../src/worker/pod-deletion-cost.ts';

interface Patch {
  line: string;
  token: string | undefined;
  type: string | undefined;
  body: unknown;
}

/** Speaks as far as we need it like the API server; make test-kubernetes asks a real one. */
let server: Server;
let account: string;
let status: number;
const patches: Patch[] = [];

beforeAll(async () => {
  server = createServer(async (request, response) => {
    const { authorization, 'content-type': type } = request.headers;
    const line = `${request.method} ${request.url}`;
    patches.push({ line, token: authorization, type, body: JSON.parse(await text(request)) });
    response.writeHead(status).end('{"kind":"Status","message":"pods is forbidden"}');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  account = mkdtempSync(path.join(tmpdir(), 'pisa-account-'));
  writeFileSync(path.join(account, 'namespace'), 'photos');
  writeFileSync(path.join(account, 'ca.crt'), '');
});
afterAll(() => {
  server.close();
  rmSync(account, { recursive: true, force: true });
});
beforeEach(() => {
  patches.length = 0;
  status = 200;
  writeFileSync(path.join(account, 'token'), 'first\n');
});

function start(jobs: () => number, log: string[] = []) {
  const { port } = server.address() as AddressInfo;
  return startPodDeletionCost({
    config: { KUBERNETES_POD: 'worker-1', KUBERNETES_API_URL: `http://127.0.0.1:${port}` },
    logger: pino({}, { write: (line: string) => log.push(line) }),
    jobs,
    accountFolder: account,
    intervalMs: 5,
  });
}

const cost = (value: string) => ({
  metadata: { annotations: { 'controller.kubernetes.io/pod-deletion-cost': value } },
});

test('annotates its own pod with the number of jobs, when it changes, with the token of the moment', async () => {
  let jobs = 0;
  const reports = start(() => jobs);
  await expect.poll(() => patches.length).toBe(1);
  expect(patches[0]).toEqual({
    line: 'PATCH /api/v1/namespaces/photos/pods/worker-1',
    token: 'Bearer first',
    type: 'application/merge-patch+json',
    body: cost('0'),
  });
  writeFileSync(path.join(account, 'token'), 'second');
  jobs = 2;
  await expect.poll(() => patches.length).toBe(2);
  reports.stop();
  expect(patches[1]).toMatchObject({ token: 'Bearer second', body: cost('2') });
});

test('a refusal is logged once, with what to do, and the report made again until it is taken', async () => {
  status = 403;
  const log: string[] = [];
  const reports = start(() => 1, log);
  await expect.poll(() => patches.length).toBeGreaterThan(3);
  status = 200;
  const seen = patches.length;
  await expect.poll(() => patches.length).toBeGreaterThan(seen);
  reports.stop();
  expect(log).toHaveLength(1);
  expect(log[0]).toContain(
    "403 to a patch of pod worker-1: pods is forbidden. The worker's service account needs to patch pods",
  );
});
