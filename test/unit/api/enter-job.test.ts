/** What a request costs on its way to its job. */
import type { FastifyRequest } from 'fastify';
import { afterEach, expect, test, vi } from 'vitest';
import { enterJob } from '../../../src/api/enter-job.ts';
import { digestFiles } from '../../../src/api/request-digest.ts';
import type { Services } from '../../../src/api/services.ts';
import { loadConfig } from '../../../src/config.ts';
import type { JobSnapshot } from '../../../src/jobs/job-snapshot.ts';

vi.mock('../../../src/api/request-digest.ts', async (original) => {
  const real = await original<typeof import('../../../src/api/request-digest.ts')>();
  return { ...real, digestFiles: vi.fn(real.digestFiles) };
});
afterEach(() => {
  vi.clearAllMocks();
});

const queue = {
  claim: async (_claim: unknown, id: string) => ({ id }),
  reuse: async () => undefined,
  submit: vi.fn(async (id: string) => ({ id }) as JobSnapshot),
};

async function enter(headers: Record<string, string>, RESULT_CACHE: string): Promise<void> {
  const services = { config: loadConfig({ RESULT_CACHE }), queue } as unknown as Services;
  const client = { name: 'anyone', countedAs: 'address/::1', concurrentJobs: 0 };
  const request = { id: 'r', raw: { headers }, query: {}, client } as unknown as FastifyRequest;
  const params = {
    pix: 1,
    sem: 1,
    scale: 4,
    format: 'png',
    quality: 90,
    colorfix: 'adain',
    metadata: 'none',
    model: 'pisa-tiny',
  } as const;
  await enterJob(services, request, {
    uploads: { image: Buffer.from('some image'), maps: {} },
    asked: { params, ttlSeconds: 60, timeoutMs: 1000 },
    input: { width: 1, height: 1, bytes: 10, content_type: 'image/png' },
  });
}

test.each([
  ['with a key, to be stored', { 'idempotency-key': 'k' }, 'on', 1],
  ['to be stored', {}, 'on', 1],
  ['with a key', { 'idempotency-key': 'k' }, 'off', 1],
  ['with neither', {}, 'off', 0],
])('an upload %s: its bytes are gone through so often', async (_which, headers, cache, times) => {
  await enter(headers, cache);
  expect(digestFiles).toHaveBeenCalledTimes(times);
  expect(queue.submit).toHaveBeenCalledOnce();
});
