/** Jobs of the API: made, followed to their end, canceled. */
import { readEvents } from './event-stream.js';
import { Problem, Unreachable } from './problem.js';
import { reached, request } from './request.js';
import { wait } from './wait.js';

/** @import { ProblemObject } from './problem.js' */
/** @import { Waiting } from './request.js' */

/**
 * What this page reads of a job object.
 * @typedef {object} Job
 * @property {string} id
 * @property {'queued' | 'processing' | 'succeeded' | 'failed' | 'canceled'} status
 * @property {{ pix: number, sem: number, model: string }} params
 * @property {{ width: number, height: number }} input
 * @property {{ width: number, height: number, bytes: number } | null} output
 * @property {{ fraction: number } | null} progress
 * @property {number | null} queue_position
 * @property {{ total: number } | null} timings_ms
 * @property {ProblemObject & { status: number } | null} error
 */

/** @typedef {{ pix: string, sem: string, scale: string, model?: string }} Settings */

/**
 * @typedef {object} Staying for who stays until something has come
 * @property {AbortSignal} signal
 * @property {(problem: Problem, seconds: number) => void} onWait told before each wait that the service asks for
 * @property {(problem: Problem) => void} onLost told when the connection is lost, before it is made again
 */

/** Between two connections, as browsers do with an EventSource. */
const reconnectMs = 2000;
/** In a row: 30 s, for a service that ends (SHUTDOWN_GRACE_SECONDS: 25) and is started anew. */
const eventConnections = 16;
/** Few: each begins at the first byte of what may be a large file. */
const resultConnections = 4;

/** @param {Partial<Settings>} settings */
export const toQuery = (settings) => new URLSearchParams({ ...settings }).toString();

const asynchronously = { method: 'POST', headers: { prefer: 'respond-async' } };

/**
 * @param {File} file
 * @param {Settings} settings
 * @param {Waiting & { signal: AbortSignal }} waiting
 * @returns {Promise<Job>}
 */
export async function upscale(file, settings, waiting) {
  const body = new FormData();
  body.append('image', file);
  const init = { ...asynchronously, body, signal: waiting.signal };
  return (await request(`upscale?${toQuery(settings)}`, init, waiting)).json();
}

/**
 * Not given up once it is sent: who has the answer can cancel the job.
 * @param {string} id
 * @param {Settings} settings
 * @param {Waiting} waiting
 * @returns {Promise<Job>}
 */
export async function adjust(id, { pix, sem }, waiting) {
  const path = `upscale/${id}/adjust?${toQuery({ pix, sem })}`;
  return (await request(path, asynchronously, waiting)).json();
}

/**
 * Cancels the job when it is outdated before it has ended.
 * @param {Job} accepted
 * @param {Staying & { onChange: (job: Job) => void }} options
 * @returns {Promise<Job>} one that has succeeded
 * @throws {Problem}
 */
export async function follow(accepted, options) {
  const { signal } = options;
  /** @type {Promise<void> | undefined} */
  let canceling;
  // At once, not after an await: on a page that is being left nothing runs later.
  const onAbort = () => {
    canceling = cancel(accepted.id);
  };
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await toItsEnd(accepted, options);
  } finally {
    signal.removeEventListener('abort', onAbort);
    await canceling;
  }
}

/**
 * @param {Job} accepted
 * @param {Staying & { onChange: (job: Job) => void }} options
 */
async function toItsEnd(accepted, { onChange, ...staying }) {
  const { signal } = staying;
  signal.throwIfAborted();
  let job = accepted;
  if (isUnderWay(job)) {
    onChange(job);
    await persistently(eventConnections, staying, async (onNews) => {
      for await (const change of changes(job, staying)) {
        onNews();
        job = change;
        onChange(job);
      }
      // It ends with the job; else the service is shutting down.
      if (isUnderWay(job)) throw new Unreachable();
    });
    signal.throwIfAborted();
  }
  if (job.status === 'succeeded') return job;
  throw new Problem(job.error ?? { title: 'The job was canceled' });
}

/** @param {Job} job */
const isUnderWay = ({ status }) => status === 'queued' || status === 'processing';

/**
 * Connects again when the connection is lost. What the service says, ends it.
 * @template T
 * @param {number} connections of which nothing came, in a row
 * @param {Staying} staying
 * @param {(onNews: () => void) => Promise<T>} transfer says when something has come
 * @returns {Promise<T>}
 */
async function persistently(connections, { signal, onLost }, transfer) {
  let left = connections;
  for (;;) {
    try {
      return await transfer(() => {
        left = connections;
      });
    } catch (error) {
      left -= 1;
      if (!(error instanceof Unreachable) || left === 0) throw error;
      onLost(error);
    }
    await wait(reconnectMs, signal);
  }
}

/**
 * @param {Job} job
 * @param {Staying} staying
 * @returns {AsyncGenerator<Job>}
 */
async function* changes(job, { signal, onWait }) {
  // Not only by the end of its reader: Firefox leaves that connection open, and has the next one wait for it for 20 s.
  const connection = new AbortController();
  const init = { signal: AbortSignal.any([signal, connection.signal]) };
  try {
    const stream = await request(`upscale/${job.id}/events`, init, { signal, onWait });
    let latest = job;
    for await (const { name, data } of readEvents(stream, signal)) {
      if (name === 'deleted') throw new Problem({ title: 'The job was deleted', status: 404 });
      if (name === 'status') latest = data;
      else if (name === 'progress') latest = { ...latest, progress: data };
      else latest = { ...latest, ...data };
      yield latest;
    }
  } finally {
    connection.abort();
  }
}

/**
 * For a job that nobody follows any more; follow cancels its own.
 * @param {Job} job as it was heard of last
 */
export async function abandon(job) {
  if (isUnderWay(job)) await cancel(job.id);
}

/** @param {string} id */
async function cancel(id) {
  // keepalive: it is also sent when the page is being left.
  await request(`upscale/${id}`, { method: 'DELETE', keepalive: true }).catch(() => {});
}

/**
 * @param {string} id
 * @param {Staying & { onReceive: () => void }} options onReceive: told when it begins to come
 * @returns {Promise<Blob>}
 * @throws {Problem}
 */
export function readResult(id, { onReceive, ...staying }) {
  const { signal, onWait } = staying;
  return persistently(resultConnections, staying, async () => {
    const response = await request(`upscale/${id}/result`, { signal }, { signal, onWait });
    onReceive();
    return reached(response.blob(), signal);
  });
}

/** @returns {Promise<{ name: string, default: boolean, available: boolean }[]>} */
export async function listModels() {
  return (await (await request('models')).json()).models;
}
