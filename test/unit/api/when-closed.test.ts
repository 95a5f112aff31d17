/** Whoever is to be told of the end of a response is told of it once, whenever it comes. */
import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { expect, test, vi } from 'vitest';
import { whenClosed } from '../../../src/api/when-closed.ts';

const closed = (socket: Socket) => new Promise((resolve) => socket.once('close', resolve));

test.each([
  ['in its turn', true],
  ['that waits behind another', false],
])('a response %s', async (_which, hasSocket) => {
  const socket = new Socket();
  const response = new ServerResponse(new IncomingMessage(socket));
  if (hasSocket) response.assignSocket(socket);
  const [kept, taken, late] = [vi.fn(), vi.fn(), vi.fn()];
  whenClosed(response, kept);
  whenClosed(response, taken)();
  expect(kept).not.toHaveBeenCalled();
  socket.destroy();
  await closed(socket);
  expect(kept).toHaveBeenCalledOnce();
  expect(taken).not.toHaveBeenCalled();
  whenClosed(response, late);
  expect(late).toHaveBeenCalledOnce();
  expect(socket.listenerCount('close')).toBe(hasSocket ? 1 : 0);
});
