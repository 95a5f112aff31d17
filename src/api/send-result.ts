/** The bytes of a finished job as an answer, passed on as they come out of the store. */
import { Readable } from 'node:stream';
import type { FastifyReply } from 'fastify';
import { AppError } from '../errors.ts';
import { orUnavailable } from '../jobs/redis-faults.ts';
import type { ObjectStore } from '../storage/object-store.ts';
import { type FinishedJob, matchesEtag, resultEtag, resultHeaders } from './result-headers.ts';
import type { Services } from './services.ts';
import { whenClosed } from './when-closed.ts';

type ResultServices = Pick<Services, 'store' | 'results'>;

/** To a client that may have it: 304 then. It never changes, so that needs no look at the store. */
export async function sendUnlessHeld(
  services: ResultServices,
  reply: FastifyReply,
  job: FinishedJob,
): Promise<FastifyReply> {
  const isLive = job.result.output.expiresAt > Date.now();
  const etag = resultEtag(job);
  if (isLive && matchesEtag(reply.request.headers['if-none-match'], etag)) {
    return reply.code(304).header('etag', etag).send();
  }
  return sendResult(services, reply, job);
}

/** @throws too_much_at_once | result_expired | redis_unavailable | storage_unavailable */
export async function sendResult(
  { store, results }: ResultServices,
  reply: FastifyReply,
  job: FinishedJob,
): Promise<FastifyReply> {
  const { client } = reply.request;
  results.take(client);
  let bytes: Readable | undefined;
  let hasLeft = false;
  whenClosed(reply.raw, () => {
    hasLeft = true;
    results.giveBack(client);
    // Fastify does so as well, but never hears of a response that waited behind another one on its connection.
    bytes?.destroy();
  });
  bytes = await openResult(store, job, reply.request.method === 'HEAD');
  if (hasLeft) bytes.destroy();
  // From here on the head has gone out: all that is left is to cut the connection, which Fastify does.
  bytes.once('error', (err) => reply.log.warn({ err, job: job.id }, 'result broken off'));
  return reply.code(200).headers(resultHeaders(job)).send(bytes);
}

/** Resolves when its first piece is there: what fails before can still be answered with a problem. */
const begun = (stream: Readable): Promise<Readable> =>
  new Promise((resolve, reject) => {
    // `reject` stays: an error right behind the first piece may come before whoever sends it listens.
    stream.once('error', reject).once('readable', () => resolve(stream));
  });

/** @param headOnly whoever asks wants to know whether it is there, and reads nothing */
async function openResult(
  store: ObjectStore,
  job: FinishedJob,
  headOnly: boolean,
): Promise<Readable> {
  const { key, expiresAt } = job.result.output;
  const open = async (): Promise<Readable | undefined> => {
    if (headOnly) return (await store.has(key)) ? Readable.from([]) : undefined;
    const stream = await store.stream(key);
    return stream && begun(stream);
  };
  const bytes = expiresAt > Date.now() ? await orUnavailable(open) : undefined;
  if (bytes) return bytes;
  throw new AppError(
    'result_expired',
    `The result was kept until ${new Date(expiresAt).toISOString()}. Send the image again.`,
  );
}
