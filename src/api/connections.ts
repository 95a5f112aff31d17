/**
 * The connections to the API, for when it closes. Node takes one for idle as soon as its answer has been written, though
 * the last of it may still wait for a client that reads slowly; and it looks for idle ones only once.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

interface Connection {
  /** Those whose last byte has not left yet. */
  answers: number;
  /** Bytes that had come when the last answer had left: more are the beginning of a next request. */
  readThen: number;
}

export class Connections {
  readonly #open = new Map<Socket, Connection>();
  #closing = false;

  /** @param server its `close` ends idle connections by what is known here */
  constructor(server: Server) {
    server.on('connection', (socket: Socket) => {
      this.#open.set(socket, { answers: 0, readThen: -1 });
      socket.once('close', () => this.#open.delete(socket));
    });
    server.on('request', (request, response) => this.#follow(request, response));
    server.closeIdleConnections = () => {
      this.#closing = true;
      this.#endIdle();
    };
  }

  /** Ends all on which no request is under way, also those whose next request has not come whole. */
  endUnused(): void {
    for (const [socket, { answers }] of this.#open) if (answers === 0) socket.destroy();
  }

  #follow({ socket }: IncomingMessage, response: ServerResponse): void {
    const connection = this.#open.get(socket);
    if (!connection) return;
    connection.answers += 1;
    response.once('close', () => {
      connection.answers -= 1;
      connection.readThen = socket.bytesRead;
      // Its head may have gone out before anybody knew that it would be the last one.
      if (this.#closing) this.#endIdle();
    });
  }

  #endIdle(): void {
    for (const [socket, { answers, readThen }] of this.#open) {
      if (answers === 0 && readThen === socket.bytesRead) socket.destroy();
    }
  }
}
