/** GET /upscale/{id}/events: a job's status, place in the queue and progress as they change (server-sent events). */
import type { ServerResponse } from 'node:http';
import type { FastifyReply } from 'fastify';
import { isFinal, type JobSnapshot } from '../../jobs/job-snapshot.ts';
import { metrics } from '../../metrics.ts';
import { ClientShare, streamsOf } from '../clients/client-share.ts';
import { findJob, jobParamsSchema, noQuerySchema } from '../find-job.ts';
import { decodeTold, eventsSince, frame, type Told, toldBy } from '../job-stream-events.ts';
import { problemResponses } from '../problem-schema.ts';
import type { App, Services } from '../services.ts';
import { whenClosed } from '../when-closed.ts';

/** How long a client whose connection broke waits before it comes back. */
const reconnectMs = 1000;
/** A client that does not read what it was told last holds up no shutdown. */
const endLimitMs = 5000;

const schema = {
  operationId: 'getUpscaleEvents',
  tags: ['upscale'],
  summary: 'A job as it changes',
  description: [
    'Server-sent events, from the job as it stands to its end:',
    '- `status`: the job object, at first and at every change of status. After a final one the stream ends.',
    '- `queue_position`: `{"queue_position": 3}`, while the job is queued.',
    '- `progress`: `{"stage": "encode_latents", "fraction": 0.25}`, while it is processing.',
    '- `deleted`: `{"id": "…"}`; the job is gone, and the stream ends.',
    '',
    'A comment line comes every EVENTS_HEARTBEAT_SECONDS, so that nothing on the way takes the connection for dead. A client that comes back with the `Last-Event-ID` that it saw last, as browsers do by themselves, is told what it has missed and nothing twice; one that has seen the end gets `204`, which tells a browser to stop.',
  ].join('\n'),
  params: jobParamsSchema,
  querystring: noQuerySchema,
  headers: {
    type: 'object',
    properties: {
      'last-event-id': { type: 'string', description: 'The `id` of the last event seen.' },
    },
  },
  response: {
    200: {
      description: 'The events.',
      // No type: some readers of the contract hold it against the whole body, some against each event.
      content: { 'text/event-stream': { schema: { description: 'See docs/http-api.md.' } } },
    },
    204: { description: 'All has been told already: the job has ended.', type: 'null' },
    ...problemResponses(
      'job_not_found',
      'invalid_parameter',
      'too_much_at_once',
      'redis_unavailable',
    ),
  },
};

export function getUpscaleEvents(app: App, { config, queue, closing }: Services): void {
  const share = new ClientShare(streamsOf(config), 'streams of events open');
  const open = new Set<ServerResponse>();
  // One timer for all streams. A stream that has something to send anyway needs no sign of life.
  const heartbeat = setInterval(() => {
    for (const raw of open) if (!raw.writableNeedDrain) raw.write(': \n\n');
  }, config.EVENTS_HEARTBEAT_SECONDS * 1000).unref();
  app.addHook('onClose', async () => clearInterval(heartbeat));

  app.get('/upscale/:id/events', { schema, exposeHeadRoute: false }, async (request, reply) => {
    const { id } = request.params;
    const job = await findJob(queue, request);
    const told = decodeTold(request.raw.headers['last-event-id']?.toString());
    if (isFinal(job.status) && told?.status === job.status) {
      return reply.code(204).header('cache-control', 'no-store').send();
    }
    const { client } = request;
    share.take(client);
    const raw = openStream(reply);
    open.add(raw);
    metrics.eventStreams.inc();
    const stop = queue.watch(id, sendTo(raw, id, told));
    let cut: NodeJS.Timeout | undefined;
    const end = (): void => {
      raw.end();
      cut = setTimeout(() => raw.destroy(), endLimitMs).unref();
    };
    closing.addEventListener('abort', end, { once: true });
    whenClosed(raw, () => {
      clearTimeout(cut);
      closing.removeEventListener('abort', end);
      stop();
      open.delete(raw);
      share.giveBack(client);
      metrics.eventStreams.dec();
    });
    if (closing.aborted) end();
    return reply;
  });
}

/** Takes the answer over from Fastify, with the headers that its hooks have set. */
function openStream(reply: FastifyReply): ServerResponse {
  reply.code(200).headers({
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    // nginx and those who follow its convention would hold the events back.
    'x-accel-buffering': 'no',
    // It lasts as long as the job: there is nothing to keep alive after it.
    connection: 'close',
  });
  reply.hijack();
  const { raw } = reply;
  raw.on('error', () => {});
  raw.writeHead(200, reply.getHeaders() as Record<string, string>);
  raw.write(`retry: ${reconnectMs}\n\n`);
  return raw;
}

/** A listener that writes what the client does not know yet, and waits for a client that reads slowly. */
function sendTo(raw: ServerResponse, id: string, toldBefore: Told | undefined) {
  let told = toldBefore;
  let latest: { job: JobSnapshot | undefined } | undefined;
  const flush = (): void => {
    // Whatever happens while the client does not read becomes one change, so nothing piles up.
    if (!latest || raw.writableEnded || raw.writableNeedDrain) return;
    const { job } = latest;
    latest = undefined;
    if (!job) {
      raw.end(frame({ name: 'deleted', data: { id } }));
      return;
    }
    const events = eventsSince(told, job);
    told = toldBy(events, told);
    if (events.length > 0) raw.write(events.map(frame).join(''));
    if (isFinal(job.status)) raw.end();
  };
  raw.on('drain', flush);
  return (job: JobSnapshot | undefined): void => {
    latest = { job };
    flush();
  };
}
