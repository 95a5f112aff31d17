/** Requests as hostile as a socket allows, and forms built by hand where no client would build them so. */
import { connect } from 'node:net';
import { expect } from 'vitest';

export interface Answer {
  status: number;
  headers: Headers;
  body: Buffer;
}

export async function send(url: string, init: RequestInit = {}): Promise<Answer> {
  const response = await fetch(url, { ...init, signal: AbortSignal.timeout(20_000) });
  return {
    status: response.status,
    headers: response.headers,
    body: Buffer.from(await response.arrayBuffer()),
  };
}

export const json = <T = Record<string, unknown>>(answer: Answer): T =>
  JSON.parse(answer.body.toString('utf8')) as T;

/** Writes `pieces` one after the other to a fresh connection; resolves with all that came back when it closes. */
export function rawExchange(
  port: number,
  pieces: (string | Uint8Array)[],
  { end = false }: { end?: boolean } = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1');
    let received = '';
    socket.setTimeout(20_000, () => socket.destroy(new Error('no answer on the connection')));
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1');
    });
    socket.on('error', (error) => (received === '' ? reject(error) : resolve(received)));
    socket.on('close', () => resolve(received));
    for (const piece of pieces) socket.write(piece);
    if (end) socket.end();
  });
}

/** The first answer of a raw exchange. */
export function parseRaw(text: string): Answer {
  const end = text.indexOf('\r\n\r\n');
  expect(end, `no HTTP answer in ${JSON.stringify(text.slice(0, 200))}`).toBeGreaterThan(0);
  const [statusLine = '', ...lines] = text.slice(0, end).split('\r\n');
  const headers = new Headers(
    lines.map((line): [string, string] => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon), line.slice(colon + 1).trim()];
    }),
  );
  const length = Number(headers.get('content-length') ?? text.length);
  return {
    status: Number(statusLine.split(' ')[1]),
    headers,
    body: Buffer.from(text.slice(end + 4, end + 4 + length), 'latin1'),
  };
}

export interface Part {
  name?: string;
  fileName?: string;
  type?: string;
  bytes: Uint8Array | string;
}

const boundary = 'pisa-test-boundary';

/** A multipart body and its headers. `cut` leaves the closing boundary out. */
export function form(parts: Part[], { cut = false } = {}): RequestInit & { body: Buffer } {
  const body = parts.flatMap(({ name, fileName, type, bytes }) => [
    Buffer.from(
      [
        `--${boundary}`,
        `Content-Disposition: form-data${name === undefined ? '' : `; name="${name}"`}${
          fileName === undefined ? '' : `; filename="${fileName}"`
        }`,
        ...(type === undefined ? [] : [`Content-Type: ${type}`]),
        '',
        '',
      ].join('\r\n'),
    ),
    Buffer.from(bytes),
    Buffer.from('\r\n'),
  ]);
  return {
    method: 'POST',
    headers: { 'content-type': `multipart/form-data; boundary=${boundary}` },
    body: Buffer.concat([...body, Buffer.from(cut ? '' : `--${boundary}--\r\n`)]),
  };
}
