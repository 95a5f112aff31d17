/**
 * What is left of a body when the answer does not need it. A server that closes on unread bytes sends a TCP
 * reset, which can destroy the answer before the client reads it: so the rest is read and thrown away, within
 * bounds.
 */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { App } from './services.ts';

/** A client that goes on sending for this long after its answer is cut off. */
const maxDiscardMs = 10_000;
/** How long an answer that will close the connection waits for the rest of the body. */
const maxHoldMs = 500;

const discarding = new WeakSet<IncomingMessage>();

/** True when the headers say that a body follows (RFC 9112, section 6). */
export function announcesBody(headers: IncomingHttpHeaders): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
}

/** Reads and drops what still comes; after the time limit the connection is cut. */
export function discardRest(raw: IncomingMessage): void {
  if (raw.complete || raw.destroyed || discarding.has(raw)) return;
  discarding.add(raw);
  const timer = setTimeout(() => {
    if (!raw.complete) raw.destroy();
  }, maxDiscardMs).unref();
  raw.once('close', () => clearTimeout(timer));
  // A connection that breaks while its answer is already written is nobody's fault to report.
  raw.on('error', () => {});
  raw.resume();
}

export function registerUnreadBodies(app: App): void {
  app.addHook('onSend', async (request, reply) => {
    const { raw } = request;
    if (raw.complete || !announcesBody(request.headers) || request.headers.expect !== undefined)
      return;
    discardRest(raw);
    const closes =
      reply.getHeader('connection') === 'close' ||
      request.headers.connection?.toLowerCase() === 'close' ||
      raw.httpVersion === '1.0';
    if (!closes) return;
    await Promise.race([
      new Promise((resolve) => raw.once('end', resolve).once('close', resolve)),
      delay(maxHoldMs, undefined, { ref: false }),
    ]);
  });
}
