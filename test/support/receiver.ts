/** An HTTP server of the other side, as well or as badly behaved as a test wants it. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

interface Received {
  method: string;
  path: string;
  headers: IncomingMessage['headers'];
  body: string;
  at: number;
}

export type Behaviour = (request: Received, response: ServerResponse) => void;

export interface Receiver {
  readonly url: string;
  readonly port: number;
  readonly received: Received[];
  /** Bytes that answers have written to sockets so far. */
  readonly bytesSent: () => number;
  readonly openConnections: () => Promise<number>;
  stop(): Promise<void>;
}

/** @param behaviour called when a request has arrived whole */
export async function startReceiver(
  behaviour: Behaviour,
  { host = '127.0.0.1', port = 0 } = {},
): Promise<Receiver> {
  const received: Received[] = [];
  let closedBytes = 0;
  const sockets = new Set<{ bytesWritten: number }>();
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => {
      body += chunk.toString('utf8');
    });
    response.on('error', () => {});
    request.on('end', () => {
      const { method = '', url: path = '', headers } = request;
      const one = { method, path, headers, body, at: Date.now() };
      received.push(one);
      behaviour(one, response);
    });
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.once('close', () => {
      closedBytes += socket.bytesWritten;
      sockets.delete(socket);
    });
  });
  server.listen(port, host);
  await once(server, 'listening');
  const address = server.address() as AddressInfo;
  return {
    url: `http://${host}:${address.port}`,
    port: address.port,
    received,
    bytesSent: () =>
      [...sockets].reduce((sum, { bytesWritten }) => sum + bytesWritten, closedBytes),
    openConnections: async () => sockets.size,
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

/** Answers at once. */
export const answers =
  (status: number, headers: Record<string, string> = {}, body: string | Buffer = ''): Behaviour =>
  (_request, response) => {
    response.writeHead(status, headers).end(body);
  };

/** Begins an answer and never ends it: as many bytes as the other side will take. */
export function sendForEver(
  response: ServerResponse,
  status = 200,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, headers);
  const block = Buffer.alloc(65_536, 0x20);
  // One block a turn: a loop would not notice that the other side has gone.
  const more = (): void => {
    if (response.destroyed || response.closed) return;
    if (response.write(block)) setImmediate(more);
    else response.once('drain', more);
  };
  more();
}

export const answersForEver =
  (status = 200, headers: Record<string, string> = {}): Behaviour =>
  (_request, response) =>
    sendForEver(response, status, headers);

/** Takes the request and says nothing. */
export const saysNothing: Behaviour = () => {};
