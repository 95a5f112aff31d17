/** Jobs of the API: made, followed to their end, canceled. */
import { readEvents } from './event-stream.js';
import { Problem } from './problem.js';
import { request } from './request.js';
import { wait } from './wait.js';

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
 * @property {{ title: string, detail: string } | null} error
 */

/** @typedef {{ pix: string, sem: string, model?: string }} Settings */

/** @param {Settings} settings */
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
 * @param {{ signal: AbortSignal, onChange: (job: Job) => void }} options
 * @returns {Promise<Job>} one that has succeeded
 * @throws {Problem}
 */
export async function follow(accepted, { signal, onChange }) {
  /** @type {Promise<void> | undefined} */
  let canceling;
  // At once, not after an await: on a page that is being left nothing runs later.
  const onAbort = () => {
    canceling = cancel(accepted.id);
  };
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await toItsEnd(accepted, signal, onChange);
  } finally {
    signal.removeEventListener('abort', onAbort);
    await canceling;
  }
}

/**
 * @param {Job} accepted
 * @param {AbortSignal} signal
 * @param {(job: Job) => void} onChange
 */
async function toItsEnd(accepted, signal, onChange) {
  let job = accepted;
  for (;;) {
    signal.throwIfAborted();
    if (job.status === 'succeeded') return job;
    if (job.status === 'failed' || job.status === 'canceled') {
      throw new Problem(job.error ?? { title: 'The job was canceled' });
    }
    onChange(job);
    try {
      for await (const change of changes(job, signal)) {
        job = change;
        onChange(job);
      }
    } catch (error) {
      // What the service says ends it. A connection that broke off is made again, as an EventSource does.
      if (signal.aborted || (error instanceof Problem && error.status !== 0)) throw error;
      await wait(2000, signal);
    }
  }
}

/**
 * @param {Job} job
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Job>}
 */
async function* changes(job, signal) {
  const stream = await request(`upscale/${job.id}/events`, { signal }, { signal });
  let latest = job;
  for await (const { name, data } of readEvents(stream)) {
    if (name === 'deleted') throw new Problem({ title: 'The job was deleted', status: 404 });
    if (name === 'status') latest = data;
    else if (name === 'progress') latest = { ...latest, progress: data };
    else latest = { ...latest, ...data };
    yield latest;
  }
  // It ends with the job; else the service is shutting down.
  if (latest.status === 'queued' || latest.status === 'processing') throw new Error('broke off');
}

/** @param {string} id */
async function cancel(id) {
  // keepalive: it is also sent when the page is being left.
  await request(`upscale/${id}`, { method: 'DELETE', keepalive: true }).catch(() => {});
}

/**
 * @param {string} id
 * @param {Waiting & { signal: AbortSignal }} waiting
 */
export async function readResult(id, waiting) {
  return (await request(`upscale/${id}/result`, { signal: waiting.signal }, waiting)).blob();
}

/** @returns {Promise<{ name: string, default: boolean, available: boolean }[]>} */
export async function listModels() {
  return (await (await request('models')).json()).models;
}
