/** GET /upscale/{id}/heatmap: where a job has invented detail. Made by a job of its own at the first request. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { heatmapId } from '../../jobs/job.ts';
import { isFinal, type JobSnapshot } from '../../jobs/job-snapshot.ts';
import { checkRoomAndModel } from '../admission.ts';
import { waitForEnd } from '../answer-job.ts';
import { countedFor } from '../clients/client.ts';
import { takeRequest } from '../clients/register-clients.ts';
import { derivedJobProblems, findSource } from '../derived-job.ts';
import { findFinishedJob, jobParamsSchema, noQuerySchema } from '../find-job.ts';
import { imageBytes } from '../image-content.ts';
import { toJobObject } from '../job-object.ts';
import { problemResponses } from '../problem-schema.ts';
import { sendProblem } from '../problems.ts';
import {
  type FinishedJob,
  ifNoneMatchSchema,
  isSucceeded,
  resultHeaderSchemas,
} from '../result-headers.ts';
import { sendUnlessHeld } from '../send-result.ts';
import type { App, Services } from '../services.ts';

const retryAfterSeconds = 5;

const schema = {
  operationId: 'getHeatmap',
  tags: ['upscale'],
  summary: 'Where detail was invented',
  description:
    'A PNG of the size of the result: |λ_sem (ε_PiSA − ε_pix)|, the mean over latent channels, black for nothing, the brightest colour for the most in this image; its ImageDescription has the value. The first request makes a job that computes it (a residual that the job did not need included), with the priority of its job and within the limits of its client, and waits up to MAX_WAIT_SECONDS: `202` and the job that makes it when that is not enough.',
  params: jobParamsSchema,
  querystring: noQuerySchema,
  headers: { type: 'object', properties: ifNoneMatchSchema },
  response: {
    200: {
      description: 'The heat map.',
      headers: { ...resultHeaderSchemas, 'Cache-Control': { type: 'string' } },
      content: { 'image/png': imageBytes },
    },
    202: {
      description: 'It is being made: ask again.',
      headers: { 'Retry-After': { type: 'integer', description: 'Seconds.' } },
      content: { 'application/json': { schema: { $ref: 'Job#' } } },
    },
    304: { description: 'The heat map that you have is the one.', type: 'null' },
    ...problemResponses(...derivedJobProblems),
  },
};

export function getHeatmap(app: App, services: Services): void {
  app.get('/upscale/:id/heatmap', { schema, exposeHeadRoute: false }, async (request, reply) => {
    const { config, queue } = services;
    const job = await findFinishedJob(queue, request);
    const id = heatmapId(job.id);
    const before = await queue.get(id);
    let heatmap = before;
    if (!heatmap || isOver(heatmap)) {
      // Before the work: who could not be sent the picture asks again.
      services.results.check(request.client, 1);
      heatmap = await enterHeatmap(services, job, before, request);
    }
    if (!isFinal(heatmap.status)) {
      heatmap = await waitForEnd(services, reply, heatmap, config.MAX_WAIT_SECONDS * 1000);
    }
    return answer(services, reply, heatmap);
  });
}

/** It ended without a picture, or the picture has gone: it may be made again. */
const isOver = (heatmap: JobSnapshot): boolean =>
  isFinal(heatmap.status) &&
  !(isSucceeded(heatmap) && heatmap.result.output.expiresAt > Date.now());

async function enterHeatmap(
  services: Services,
  job: FinishedJob,
  before: JobSnapshot | undefined,
  { id: requestId, client, span }: Pick<FastifyRequest, 'id' | 'client' | 'span'>,
): Promise<JobSnapshot> {
  const { config, queue } = services;
  await takeRequest(queue, client);
  const { data } = await findSource(services, job);
  const { params, maps, timeoutMs, priority } = job.data;
  await checkRoomAndModel(queue, params.model, config);
  const id = heatmapId(job.id);
  if (before) await queue.removeEnded(before);
  const leftMs = data.source.expiresAt - Date.now();
  return queue.submit(
    id,
    {},
    {
      kind: 'heatmap',
      ...data,
      params: { ...params, format: 'png', metadata: 'none' },
      isDefaultModel: params.model === config.MODEL,
      ...(maps ? { maps } : {}),
      ttlSeconds: Math.max(1, Math.ceil(leftMs / 1000)),
      timeoutMs,
      ...(priority ? { priority } : {}),
      requestId,
      ...(span ? { traceparent: span.traceparent } : {}),
    },
    { mayExist: true, within: countedFor(client) },
  );
}

async function answer(
  services: Services,
  reply: FastifyReply,
  heatmap: JobSnapshot,
): Promise<FastifyReply> {
  if (isSucceeded(heatmap)) {
    const leftMs = heatmap.result.output.expiresAt - Date.now();
    reply.header('cache-control', `private, max-age=${Math.max(0, Math.floor(leftMs / 1000))}`);
    return sendUnlessHeld(services, reply, heatmap);
  }
  reply.header('cache-control', 'no-store');
  if (heatmap.error) return sendProblem(reply, heatmap.error);
  return reply
    .code(202)
    .header('retry-after', String(retryAfterSeconds))
    .send(toJobObject(heatmap));
}
