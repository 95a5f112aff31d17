/** How a long-running command ends: on SIGINT or SIGTERM, in order, within a time limit. */
import type { Logger } from 'pino';

/** Beyond the grace time of running jobs: closing sockets, the device and Redis. */
const closingMarginMs = 10_000;

/**
 * Waits for the first SIGINT or SIGTERM (a second one ends the process at once), then runs the closers
 * one after the other. A closer that fails is logged, and the next one still runs.
 */
export async function untilSignal(
  logger: Logger,
  graceSeconds: number,
  closers: readonly (() => Promise<unknown>)[],
): Promise<void> {
  const signal = await new Promise<NodeJS.Signals>((resolve) => {
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, resolve);
  });
  logger.info({ signal }, 'shutting down');
  const giveUp = (): never => process.exit(1);
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, giveUp);
  setTimeout(giveUp, graceSeconds * 1000 + closingMarginMs).unref();
  await closeAll(logger, closers);
}

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
