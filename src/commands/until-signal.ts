/** How a long-running command ends: on Ctrl-C, SIGTERM or the end of its terminal, in order, within a time limit. */
import type { Logger } from 'pino';

/** Beyond the times that are set: closing sockets, the device and Redis. */
const closingMarginMs = 10_000;

/**
 * Resolves at the first SIGINT, SIGTERM or SIGHUP. From then on the process ends at once at a second SIGINT or SIGTERM, or
 * when closing takes longer than `limitSeconds` and a margin. A second SIGHUP is no wish to hurry: of a terminal that is
 * closed, kernel and shell send one each.
 */
export async function untilSignal(logger: Logger, limitSeconds: number): Promise<'signal'> {
  const signal = await new Promise<NodeJS.Signals>((resolve) => {
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, resolve);
  });
  logger.info({ signal }, 'shutting down');
  const giveUp = (): never => process.exit(1);
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, giveUp);
  setTimeout(giveUp, limitSeconds * 1000 + closingMarginMs).unref();
  return 'signal';
}

/** Runs the closers one after the other. One that fails is logged, and the next one still runs. */
export async function closeAll(
  logger: Logger,
  closers: readonly (() => Promise<unknown>)[],
): Promise<void> {
  for (const close of closers) {
    try {
      await close();
    } catch (error) {
      logger.error({ err: error }, 'closing failed');
    }
  }
}
