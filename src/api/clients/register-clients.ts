/**
 * In front of every route: who sends the request, whether it is within its rate, and, where keys are asked for,
 * that a client sees no job but its own.
 */
import type { FastifyRequest } from 'fastify';
import type { JobPriority } from '../../jobs/job.ts';
import type { JobSnapshot } from '../../jobs/job-snapshot.ts';
import type { UpscaleQueue } from '../../jobs/queue.ts';
import { findRepeated, isRepeated } from '../enter-job.ts';
import { jobNotFound } from '../find-job.ts';
import type { App, Services } from '../services.ts';
import type { ApiKeys } from './api-keys.ts';
import { type Client, checkPriority, identify } from './client.ts';

declare module 'fastify' {
  interface FastifyRequest {
    client: Client;
    /**
     * The job of the path, as it was when it was found to be the client's; null when there was none. Undefined where no
     * keys are asked for.
     */
    ownJob: JobSnapshot | null | undefined;
  }
}

/** Probes, scrapes, the documents and the playground's files say nothing of anybody's images. */
const openPaths = /^\/(healthz|readyz|metrics|docs(\/.*)?|playground\/.*)?$/;

/** Whom a request is from until it is known. */
const nobody: Client = { name: '', countedAs: '', requestsPerMinute: 0, concurrentJobs: 0 };

export function registerClients(
  app: App,
  { config, queue }: Pick<Services, 'config' | 'queue'>,
  keys: ApiKeys | undefined,
): void {
  const clients = new WeakMap<FastifyRequest, Client>();
  app.decorateRequest('client', {
    getter() {
      return clients.get(this) ?? nobody;
    },
    setter(client: Client) {
      clients.set(this, client);
    },
  });

  app.decorateRequest('ownJob', undefined);

  app.addHook('onRequest', async (request) => {
    const path = request.routeOptions.url;
    // A path that does not exist is 404 to anybody.
    if (path === undefined || openPaths.test(path)) return;
    request.client = identify(keys, request.headers, request.ip, config);
    if (request.method !== 'POST') return;
    const { client } = request;
    await takeRequest(queue, client);
    if (client.concurrentJobs === 0) return;
    // It may be the retry of a job that counts already. One that has no job yet is counted when it is submitted.
    if (await isRepeated(queue, request)) return;
    await queue.limits.checkJobs(client.countedAs, client.concurrentJobs);
  });

  if (!keys) return;
  app.addHook('preHandler', async (request) => {
    const id = (request.params as { id?: string } | undefined)?.id;
    const namesJob = id !== undefined && !openPaths.test(request.routeOptions.url ?? '');
    const job = namesJob ? await queue.get(id) : undefined;
    // A retry whose job is there needs the one of the path no more, and by its Idempotency-Key it is the client's.
    const isPost = request.method === 'POST';
    if (namesJob && !job && isPost && (await findRepeated(queue, request))) {
      request.ownJob = null;
      return;
    }
    // As if it did not exist: an id tells nothing to whom it does not belong.
    if (namesJob && job?.data.client !== request.client.name) throw jobNotFound(id);
    request.ownJob = job;
    if (!isPost) return;
    const { priority } = request.query as { priority?: JobPriority };
    const asked = priority ?? job?.data.priority ?? 'interactive';
    checkPriority(request.client, asked);
  });
}

/**
 * Counts a request that makes a job.
 * @throws rate_limited | redis_unavailable
 */
export async function takeRequest({ limits }: UpscaleQueue, client: Client): Promise<void> {
  await limits.takeRequest(client.countedAs, client.requestsPerMinute);
}
