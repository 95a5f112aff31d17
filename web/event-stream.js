/** Server-sent events read by fetch, because an EventSource cannot send the key. */
import { Unreachable } from './problem.js';
import { reached } from './request.js';

/** A stream that has less to say gives a sign of life, every two minutes or more often (EVENTS_HEARTBEAT_SECONDS). */
const longestSilenceMs = 130_000;

/**
 * https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as this API uses it. Who asked for the
 * response ends it.
 * @param {Response} response
 * @param {AbortSignal} signal that gives it up
 * @returns {AsyncGenerator<{ name: string, data: any }>}
 * @throws {Unreachable} when it breaks off, or falls silent, as after a change of networks
 */
export async function* readEvents(response, signal) {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  let text = '';
  for (;;) {
    const { done, value } = await reached(notSilent(reader.read()), signal);
    if (done) return;
    const blocks = (text + value).split('\n\n');
    text = blocks.pop() ?? '';
    for (const block of blocks) {
      const event = parse(block);
      if (event) yield event;
    }
  }
}

/**
 * @template T
 * @param {Promise<T>} reading
 * @returns {Promise<T>}
 */
function notSilent(reading) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Unreachable()), longestSilenceMs);
    reading.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/**
 * @param {string} block
 * @returns undefined for a comment, or what else carries no data
 */
function parse(block) {
  const fields = new Map(
    block.split('\n').map((line) => {
      const colon = line.indexOf(': ');
      return [line.slice(0, colon), line.slice(colon + 2)];
    }),
  );
  const name = fields.get('event');
  const data = fields.get('data');
  return name !== undefined && data !== undefined ? { name, data: JSON.parse(data) } : undefined;
}
