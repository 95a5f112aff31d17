/** The end of the connection that a response goes to. */
import type { ServerResponse } from 'node:http';

/**
 * Calls the listener once, when the response has been sent or its connection has closed: at once if that is past,
 * since its event does not come again.
 * @returns a function that takes the listener off
 */
export function whenClosed(response: ServerResponse, listener: () => void): () => void {
  // The response to a pipelined request has no part in its connection until its turn comes.
  const { socket } = response.req;
  // Taking a listener off does not help once its event is being told.
  let waits = true;
  const onClose = (): void => {
    if (!waits) return;
    stop();
    listener();
  };
  const stop = (): void => {
    waits = false;
    response.off('close', onClose);
    socket.off('close', onClose);
  };
  if (response.destroyed || socket.destroyed) {
    listener();
  } else {
    response.once('close', onClose);
    socket.once('close', onClose);
  }
  return stop;
}
