/** What is done for a client that waits for it, and for nobody once the client has gone. */
import type { ServerResponse } from 'node:http';
import { AppError } from '../errors.ts';
import { whenClosed } from './when-closed.ts';

/**
 * @param work gets a signal that aborts when the connection of the response closes
 * @returns what `work` returns
 */
export async function whileConnected<T>(
  response: ServerResponse,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const gone = new AbortController();
  const stop = whenClosed(response, () => {
    gone.abort(new AppError('malformed_request', 'The client went away.'));
  });
  try {
    return await work(gone.signal);
  } finally {
    stop();
  }
}
