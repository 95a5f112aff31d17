/** Server-sent events read by fetch, because an EventSource cannot send the key. */
import { reached } from './request.js';

/**
 * https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as this API uses it.
 * @param {Response} response
 * @param {AbortSignal} signal that gives it up
 * @returns {AsyncGenerator<{ name: string, data: any }>}
 * @throws {Unreachable} when it breaks off
 */
export async function* readEvents(response, signal) {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  let text = '';
  try {
    for (;;) {
      const { done, value } = await reached(reader.read(), signal);
      if (done) return;
      const blocks = (text + value).split('\n\n');
      text = blocks.pop() ?? '';
      for (const block of blocks) {
        const event = parse(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
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
