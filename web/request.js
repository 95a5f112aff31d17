/** One request to the API: with the key, tried again when the service says when, its faults thrown as `Problem`. */
import { askForKey, currentKey } from './key.js';
import { Problem, readProblem } from './problem.js';
import { wait } from './wait.js';

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
  try {
    return await fetch(path, { ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Problem({
      title: 'The service cannot be reached',
      detail: 'It may have stopped, or the connection to it may be down.',
    });
  }
}
