import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { Connections } from '../../../src/api/connections.ts';

/** Far more than the buffers of a connection hold. */
const large = Buffer.alloc(24_000_000, 1);
const sockets: Socket[] = [];
let server: Server;
let connections: Connections;

afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
  server.close();
});

async function listen(answer: RequestListener): Promise<void> {
  // So that nothing but what is tested ends a connection.
  server = createServer({ keepAliveTimeout: 600_000 }, answer);
  connections = new Connections(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
}

async function open(): Promise<Socket> {
  const accepted = once(server, 'connection');
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  sockets.push(socket);
  await accepted;
  return socket;
}

/** Resolves when the first bytes of the answer are there; the rest is not read. */
async function ask(socket: Socket): Promise<void> {
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
  await once(socket, 'readable');
}

/** Reads on until the connection ends. */
async function readAll(socket: Socket): Promise<number> {
  let received = 0;
  socket.on('data', (bytes: Buffer) => {
    received += bytes.length;
  });
  await once(socket, 'close');
  return received;
}

test('one whose answer has been written and not been read is none that is idle', async () => {
  await listen((_request, response) => response.end(large));
  const socket = await open();
  await ask(socket);
  server.close();
  connections.endUnused();
  expect(await readAll(socket)).toBeGreaterThan(large.length);
});

test('one that is idle ends at once, and one with an answer under way after that', async () => {
  let finish = (): void => {};
  await listen((_request, response) => {
    response.write('a beginning');
    finish = () => response.end();
  });
  const idle = await open();
  await ask(idle);
  finish();
  idle.resume();
  const busy = await open();
  await ask(busy);
  const ended = once(server, 'close');
  server.close();
  await once(idle, 'close');
  expect(busy.destroyed).toBe(false);
  finish();
  expect(await readAll(busy)).toBeGreaterThan(0);
  await ended;
});

test('one without a whole request ends when unused ones do', async () => {
  await listen((_request, response) => response.end());
  const [fresh, begun] = [await open(), await open()];
  begun.write('GET / HTTP/1.1\r\n');
  const ended = once(server, 'close');
  server.close();
  connections.endUnused();
  await Promise.all([once(fresh, 'close'), once(begun, 'close'), ended]);
});
