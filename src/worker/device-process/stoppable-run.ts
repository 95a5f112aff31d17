/**
 * A run in the device process that ends when it is told to stop, whatever it waits for: a model that loads, an image
 * that is decoded or encoded, the store. None of these can be broken off, so they go on, unheard, until they are done;
 * a model that was loaded so is there for the next job.
 */
import type { UpscaleJobData, UpscaleJobResult } from '../../jobs/job.ts';
import { unlessAborted } from '../../waits.ts';
import { type JobTools, runJob } from './run-job.ts';
import { RunStore } from './run-store.ts';

export interface StoppableRun {
  /** Rejects as `runJob` does, or with the signal's reason once nothing more of the run can get into the store. */
  readonly result: Promise<UpscaleJobResult>;
  /** Resolves when nothing of the run goes on: its memory is free and its turns have passed to others. */
  readonly over: Promise<void>;
}

export function startRun(id: string, data: UpscaleJobData, tools: JobTools): StoppableRun {
  const { signal, onProgress } = tools;
  const store = new RunStore(tools.store, signal);
  const working = runJob(id, data, {
    ...tools,
    store,
    onProgress: (progress) => {
      if (!signal.aborted) onProgress(progress);
    },
  });
  const result = unlessAborted(working, signal).catch(async (error: unknown) => {
    await store.written();
    throw error;
  });
  // How it ends after all is nobody's business then.
  return { result, over: working.then(ignore, ignore) };
}

const ignore = () => undefined;
