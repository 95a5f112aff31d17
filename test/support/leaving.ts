/** Clients that leave at a moment which is hard to hit from outside: while their request waits for something else. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { ServerResponse } from 'node:http';
import { connect } from 'node:net';

const requestStart = 'http.server.request.start';

/**
 * Sends a request, whole or in part, whose client will leave before it is answered.
 * @returns a function that ends the connection and resolves when the server has noticed
 */
export function leavingClient(port: number, pieces: (string | Uint8Array)[]): () => Promise<void> {
  const closed: Promise<void>[] = [];
  const onStart = (message: unknown): void => {
    const { response } = message as { response: ServerResponse };
    closed.push(new Promise((resolve) => response.once('close', resolve)));
  };
  subscribe(requestStart, onStart);
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  for (const piece of pieces) socket.write(piece);
  return async () => {
    unsubscribe(requestStart, onStart);
    socket.destroy();
    await Promise.all(closed);
  };
}
