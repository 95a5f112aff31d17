/** Holds a request until its job ends. */
import { AppError } from '../errors.ts';
import type { JobEvents } from './job-events.ts';
import { isFinal, type JobSnapshot } from './job-snapshot.ts';

/** Events can be lost (a trimmed stream, a Redis that restarts): a waiting request looks by itself this often. */
const lookAgainMs = 5000;

export interface WaitOptions {
  events: Pick<JobEvents, 'subscribe'>;
  /** @throws redis_unavailable */
  look: () => Promise<JobSnapshot | undefined>;
  timeoutMs: number;
  signal?: AbortSignal | undefined;
}

/** See `UpscaleQueue.waitFor`. */
export async function waitForJob(
  id: string,
  { events, look, timeoutMs, signal }: WaitOptions,
): Promise<JobSnapshot | undefined> {
  const deadline = Date.now() + timeoutMs;
  let last: JobSnapshot | undefined;
  for (;;) {
    // Subscribe before looking, so that nothing that happens after the look is missed.
    const change = nextChange(events, id, signal);
    try {
      last = last ? await lookUnlessAway(look, last) : await look();
      const leftMs = deadline - Date.now();
      if (!last || isFinal(last.status) || leftMs <= 0 || signal?.aborted) return last;
      await change.within(Math.min(leftMs, lookAgainMs));
    } finally {
      change.end();
    }
  }
}

/** The job was accepted and Redis will be back: a short absence is no reason to give up a wait. */
async function lookUnlessAway(
  look: WaitOptions['look'],
  last: JobSnapshot,
): Promise<JobSnapshot | undefined> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof AppError && error.code === 'redis_unavailable') return last;
    throw error;
  }
}

function nextChange(events: WaitOptions['events'], id: string, signal?: AbortSignal) {
  let wake = () => {};
  const changed = new Promise<void>((resolve) => {
    wake = resolve;
  });
  // Progress ends no wait. It comes several times a second, and to every request that waits for the job.
  const unsubscribe = events.subscribe(id, ({ progress }) => {
    if (!progress) wake();
  });
  signal?.addEventListener('abort', wake);
  let timer: NodeJS.Timeout | undefined;
  return {
    within: (ms: number) => {
      timer = setTimeout(wake, ms);
      return changed;
    },
    end: () => {
      clearTimeout(timer);
      unsubscribe();
      signal?.removeEventListener('abort', wake);
    },
  };
}
