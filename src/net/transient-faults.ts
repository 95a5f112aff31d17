/** Which failures of a connection may be over when it is tried again, by the codes of Node, c-ares and undici. */

/** What a wrong certificate, name or answer throws is not among them: the same would come again. */
const transientCodes = new Set([
  // Of the look-up: the name server did not answer, or said that it could not say.
  'EAI_AGAIN',
  'ESERVFAIL',
  'ETIMEOUT',
  // Of the connection.
  'ECONNREFUSED',
  'ECONNRESET',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EPIPE',
  'ETIMEDOUT',
  'UND_ERR_CONNECT_TIMEOUT',
  // Of the exchange: cut off, or silent.
  'UND_ERR_BODY_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_RES_CONTENT_LENGTH_MISMATCH',
  'UND_ERR_SOCKET',
]);

/** A chunked body that was cut off: llhttp's words, for which undici has no code. */
const cutOff = 'Invalid EOF state';

/** Of a host with several addresses the code is that of the first one (Node's AggregateError). */
export function isTransient(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const { code } = error as { code?: unknown };
  return transientCodes.has(String(code)) || error.message.includes(cutOff);
}
