/** One request to the API: with the key, tried again when the service says when, its faults thrown as `Problem`. */
import { askForKey, currentKey } from './key.js';
import { readProblem, Unreachable } from './problem.js';
import { wait } from './wait.js';

/** @import { Problem } from './problem.js' */

/**
 * @typedef {object} Waiting
 * @property {AbortSignal} [signal] gives up waiting; `init.signal` gives up the request itself
 * @property {(problem: Problem, seconds: number) => void} [onWait] told before each wait
 */

/**
 * @param {string} path relative to the page
 * @param {RequestInit} [init]
 * @param {Waiting} [waiting]
 * @returns {Promise<Response>} one that is ok
 * @throws {Problem}
 */
export async function request(path, init = {}, { signal, onWait } = {}) {
  for (;;) {
    const key = currentKey();
    const response = await send(path, init, key);
    if (response.ok) return response;
    const problem = await readProblem(response);
    if (response.status === 401 || response.status === 403) {
      // Another request may have been given one meanwhile.
      if (key === currentKey() && !(await askForKey(problem))) throw problem;
      signal?.throwIfAborted();
      continue;
    }
    const seconds = Number(response.headers.get('retry-after') ?? Number.NaN);
    const mayRetry = response.status === 429 || response.status === 503;
    if (!mayRetry || Number.isNaN(seconds)) throw problem;
    onWait?.(problem, seconds);
    await wait(seconds * 1000, signal);
  }
}

/**
 * @param {string} path
 * @param {RequestInit} init
 * @param {string | null} key
 */
async function send(path, init, key) {
  const headers = new Headers(init.headers);
  if (key !== null) headers.set('authorization', `Bearer ${key}`);
  return reached(fetch(path, { ...init, headers }), init.signal);
}

/**
 * For what fails only with the connection: the head of an answer, and its body.
 * @template T
 * @param {Promise<T>} transfer
 * @param {AbortSignal | null} [signal] that gives it up
 * @throws {Unreachable}
 */
export async function reached(transfer, signal) {
  try {
    return await transfer;
  } catch (error) {
    // By the signal, not by the kind of error: browsers differ in what a broken body is.
    throw signal?.aborted ? error : new Unreachable();
  }
}
