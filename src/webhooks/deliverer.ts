/**
 * Delivers webhooks, in the process of the api: workers may be scaled to none for hours, and hold neither the
 * secret nor a way out of the cluster. A queue of its own, plain network traffic, no graph and no image: whatever
 * a receiver does, jobs go on.
 */
import { DelayedError, UnrecoverableError, WaitingError, Worker } from 'bullmq';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import { bullConnection } from '../jobs/bull-connection.ts';
import { isFinal } from '../jobs/job-snapshot.ts';
import type { UpscaleQueue } from '../jobs/queue.ts';
import {
  type DeliveryData,
  type DeliveryJob,
  type DeliveryResult,
  fromEndedJob,
  recordEnd,
  webhookQueueName,
} from '../jobs/webhook.ts';
import { metrics } from '../metrics.ts';
import { AddressPolicy } from '../net/address-policy.ts';
import { startSpan, traceOf } from '../tracing/tracing.ts';
import { within } from '../waits.ts';
import { type AttemptOptions, attemptDelivery, attemptOutcomes } from './attempt.ts';
import { eventBody } from './delivery-event.ts';
import { DeliverySlots } from './delivery-slots.ts';
import { retryDelayMs } from './retry-schedule.ts';
import { signingKeys } from './signing-keys.ts';

export interface DelivererOptions {
  config: Config;
  redisUrl: string;
  /** Where the job is looked up. */
  queue: UpscaleQueue;
  logger: Logger;
  /** Times that are right for production and too long for a test. */
  times?: { lockMs: number; stalledCheckMs: number };
}

/** An attempt that failed and may be made again. */
class TryAgain extends Error {
  override readonly name = 'TryAgain';
  readonly delayMs: number;

  constructor(fault: string, delayMs: number) {
    super(fault);
    this.delayMs = delayMs;
  }
}

/** BullMQ's own defaults. */
const defaultTimes = { lockMs: 30_000, stalledCheckMs: 30_000 };
/** An api that is killed in the middle of a delivery, again and again, is no fault of the delivery. */
const maxStalledCount = 1000;
/** When the job could not be looked at, or has not ended, as it should have. */
const faultDelayMs = 1000;
const closeGraceMs = 1000;

export class Deliverer {
  /** Resolves when deliveries are being taken. */
  readonly ready: Promise<void>;
  readonly #queue: UpscaleQueue;
  readonly #logger: Logger;
  readonly #worker: Worker<DeliveryData, DeliveryResult>;
  readonly #slots: DeliverySlots;
  readonly #keysOf: (client: string) => readonly Buffer[];
  readonly #attempt: Omit<AttemptOptions, 'signal' | 'keys'>;
  readonly #waitsSeconds: readonly number[];
  readonly #publicUrl: string;
  readonly #closing = new AbortController();
  readonly #running = new Set<Promise<unknown>>();

  constructor({ config, redisUrl, queue, logger, times = defaultTimes }: DelivererOptions) {
    this.#queue = queue;
    this.#logger = logger;
    this.#slots = new DeliverySlots(config);
    this.#keysOf = signingKeys(config);
    this.#waitsSeconds = config.WEBHOOK_RETRY_SECONDS;
    this.#publicUrl = config.PUBLIC_URL;
    this.#attempt = {
      policy: new AddressPolicy(config.WEBHOOK_ALLOWED_HOSTS),
      timeoutMs: config.WEBHOOK_TIMEOUT_SECONDS * 1000,
    };
    this.#worker = new Worker(
      webhookQueueName,
      (job: DeliveryJob, token?: string) => this.#track(this.#process(job, token ?? '')),
      {
        connection: bullConnection(redisUrl),
        concurrency: config.WEBHOOKS_IN_FLIGHT,
        lockDuration: times.lockMs,
        stalledInterval: times.stalledCheckMs,
        maxStalledCount,
        settings: {
          backoffStrategy: (_attempts, _type, error) =>
            error instanceof TryAgain ? error.delayMs : faultDelayMs,
        },
      },
    );
    this.#worker.on('error', (error) => logger.warn({ err: error }, 'webhooks'));
    for (const outcome of attemptOutcomes) metrics.webhookAttempts.inc({ outcome }, 0);
    for (const outcome of ['delivered', 'failed']) metrics.webhooks.inc({ outcome }, 0);
    this.ready = this.#worker.waitUntilReady().then(() => {});
    this.ready.catch(() => {});
  }

  /** Takes no more deliveries; those under way get a moment to end, the others are handed back. */
  async close(): Promise<void> {
    const stopped = this.#worker.pause(true).catch(() => {});
    await within(Promise.allSettled([...this.#running]), closeGraceMs);
    this.#closing.abort(new Error('The service is shutting down.'));
    await within(Promise.allSettled([stopped, ...this.#running]), closeGraceMs);
    if (await within(this.#worker.close(), closeGraceMs)) return;
    await within(this.#worker.disconnect(), closeGraceMs);
  }

  #track<T>(work: Promise<T>): Promise<T> {
    const settled = work.catch(() => {}).finally(() => this.#running.delete(settled));
    this.#running.add(settled);
    return work;
  }

  /** Every way in which an attempt can end, in BullMQ's words. */
  async #process(delivery: DeliveryJob, token: string): Promise<DeliveryResult> {
    const { id = '', data } = delivery;
    const room = this.#slots.take(data);
    try {
      if ('putOffMs' in room) {
        await this.#queue.putOff.add(id);
        return await this.#later(delivery, token, room.putOffMs);
      }
      await this.#queue.putOff.remove(id);
      const body = await this.#bodyOf(delivery);
      if (body === undefined) return await this.#later(delivery, token, faultDelayMs);
      return await this.#deliver(delivery, body);
    } catch (error) {
      // Redis was away for the look at the job: no attempt was made.
      if (error instanceof AppError) return await this.#later(delivery, token, faultDelayMs);
      if (!this.#closing.signal.aborted || error !== this.#closing.signal.reason) throw error;
      await delivery.moveToWait(token);
      throw new WaitingError();
    } finally {
      if ('release' in room) room.release();
    }
  }

  async #deliver(delivery: DeliveryJob, body: string): Promise<DeliveryResult> {
    const id = delivery.id ?? '';
    const { data, attemptsMade } = delivery;
    const at = Date.now();
    const { client = '', requestId: request, traceparent } = data.ended?.data ?? {};
    const keys = this.#keysOf(client);
    const options = { ...this.#attempt, keys, signal: this.#closing.signal };
    // Of the URL only where it leads: the rest may be a secret.
    const to = new URL(data.url).origin;
    const span = startSpan('deliver webhook', {
      kind: 'client',
      parent: traceparent,
      attributes: { 'pisa.job': id, 'pisa.attempt': attemptsMade + 1, 'url.full': to },
    });
    const outcome = await attemptDelivery(data.url, { id, body }, options);
    if (outcome.status !== undefined) span?.set({ 'http.response.status_code': outcome.status });
    span?.end(outcome.kind === 'failed' ? { error: outcome.outcome } : {});
    metrics.webhookAttemptSeconds.observe((Date.now() - at) / 1000);
    const facts = { job: id, request, ...traceOf(traceparent), to, attempt: attemptsMade + 1 };
    if (outcome.kind === 'delivered') {
      metrics.webhookAttempts.inc({ outcome: 'delivered' });
      metrics.webhooks.inc({ outcome: 'delivered' });
      this.#logger.info({ ...facts, status: outcome.status }, 'webhook delivered');
      return { at, status: outcome.status };
    }
    metrics.webhookAttempts.inc({ outcome: outcome.outcome });
    const isLast = outcome.final || attemptsMade + 1 >= (delivery.opts.attempts ?? 1);
    const delayMs = retryDelayMs(this.#waitsSeconds, attemptsMade + 1, outcome.retryAfterMs);
    await delivery.updateData({
      ...delivery.data,
      lastFailure: {
        at,
        fault: outcome.fault,
        ...(outcome.status === undefined ? {} : { status: outcome.status }),
        ...(isLast ? {} : { nextAt: Date.now() + delayMs }),
      },
    });
    if (isLast) metrics.webhooks.inc({ outcome: 'failed' });
    this.#logger.info(
      { ...facts, fault: outcome.fault, ...(isLast ? {} : { nextInMs: delayMs }) },
      isLast ? 'webhook given up' : 'webhook not delivered yet',
    );
    throw isLast ? new UnrecoverableError(outcome.fault) : new TryAgain(outcome.fault, delayMs);
  }

  /** @returns undefined while the job has not ended, which a delivery should not see */
  async #bodyOf(delivery: DeliveryJob): Promise<string | undefined> {
    if (!delivery.data.ended) {
      const job = await this.#queue.get(delivery.id ?? '');
      // Its record outlives its result by far: Redis has lost it.
      if (!job) throw new UnrecoverableError('The job is not on record any more.');
      if (!isFinal(job.status)) return undefined;
      await recordEnd(delivery, job);
    }
    const { ended } = delivery.data;
    return ended && eventBody(fromEndedJob(ended), this.#publicUrl);
  }

  /** Not an attempt: it only waits. */
  async #later(delivery: DeliveryJob, token: string, delayMs: number): Promise<never> {
    await delivery.moveToDelayed(Date.now() + delayMs, token);
    throw new DelayedError();
  }
}
