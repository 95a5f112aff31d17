/** Asks `/healthz` from a thread of its own, so that it does not measure how busy the sender of the load is. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

export interface HealthProbe {
  /** @returns milliseconds of each answer; infinite for one that was no 200 */
  stop(): Promise<number[]>;
}

export function startHealthProbe(serviceUrl: string, everyMs: number): HealthProbe {
  const thread = new Worker(new URL('./health-probe-thread.js', import.meta.url), {
    workerData: { url: `${serviceUrl}/healthz`, everyMs },
  });
  return {
    stop: async () => {
      const answered = once(thread, 'message');
      thread.postMessage('stop');
      const [latenciesMs] = (await answered) as [number[]];
      return latenciesMs;
    },
  };
}
