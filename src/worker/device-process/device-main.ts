/**
 * The device process: the only place where graphs run. The supervisor forks it, tells it its settings, and
 * sends it whole jobs, several at once, so that image coding of one overlaps the graph runs of another. A graph
 * run blocks this process's event loop; that is why nobody else depends on it.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { format } from 'node:util';
import { AppError, toAppError, toFailure, toldInFull } from '../../errors.ts';
import { asStartFault, whenDeviceBreaks } from '../../pipeline/session.ts';
import { openStore } from '../../storage/open-store.ts';
import { jobFacts } from '../job-facts.ts';
import {
  type DeviceSettings,
  type FromDevice,
  heartbeatIntervalMs,
  type ToDevice,
} from '../protocol.ts';
import { executionProviderOf, type LoadedModels, openModels } from './loaded-models.ts';
import type { JobTools } from './run-job.ts';
import { type StoppableRun, startRun } from './stoppable-run.ts';

/** Progress messages of one job are at least this far apart: each becomes a write to Redis. */
const progressIntervalMs = 200;

type Tools = Pick<JobTools, 'models' | 'store' | 'settings'>;

const aborts = new Map<number, AbortController>();
/** The run for which something is done. */
const currentRun = new AsyncLocalStorage<number>();
let tools: Tools | undefined;

const send = (message: FromDevice) => {
  // Without a channel the supervisor is gone, and `disconnect` ends this process.
  if (process.connected) process.send?.(message);
};

process.on('message', (message: ToDevice) => {
  if (message.type === 'start') void start(message.settings);
  if (message.type === 'run') void runAndTell(message);
  if (message.type === 'abort') {
    const { code, detail } = message.failure;
    aborts.get(message.run)?.abort(new AppError(code, detail));
  }
});

// At once: the run itself first ends its writes, and by then another one may have met the broken device and be blamed for it.
whenDeviceBreaks((fault) => {
  const run = currentRun.getStore();
  if (run !== undefined) sendFailed(run, fault);
});

// Ctrl-C in a terminal reaches the whole process group. Only the supervisor decides when a device ends.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
// The supervisor is gone, however it ended: no orphan.
process.on('disconnect', () => process.exit(0));

async function start(settings: DeviceSettings): Promise<void> {
  setInterval(() => {
    send({ type: 'heartbeat', residentBytes: process.memoryUsage.rss() });
  }, heartbeatIntervalMs);
  try {
    const models = await openModels(
      settings,
      (change) => send({ type: 'model', change }),
      // A start that fails says so itself.
      (unopened) => tools && send({ type: 'unopened', unopened }),
    );
    send({ type: 'models', models: models.summaries });
    await preload(models, settings);
    const store = openStore(settings.store, { role: 'consumer', sweep: false });
    tools = { models, store, settings };
    send({ type: 'ready' });
  } catch (error) {
    const failure = { failure: toFailure(startError(error, settings)), ...causeOf(error) };
    process.send?.({ type: 'unusable', ...failure } satisfies FromDevice, () => process.exit(1));
  }
}

/** @throws as `LoadedModels.preload`, and device_unavailable */
async function preload(models: LoadedModels, settings: DeviceSettings): Promise<void> {
  try {
    await models.preload([settings.defaultModel, ...settings.preload]);
  } catch (error) {
    throw asStartFault(error, executionProviderOf(settings.device));
  }
}

/** For the operator, who is told all of it. An unknown model is the user's fault in a job, but theirs in the settings. */
function startError(error: unknown, { modelsDir }: DeviceSettings): AppError {
  const known = toAppError(error);
  if (known.code !== 'unknown_model') return new AppError(known.code, toldInFull(known));
  return new AppError(
    'invalid_bundle',
    `MODEL or PRELOAD_MODELS names a bundle that is not in ${modelsDir}. ${known.message}`,
  );
}

async function runAndTell({ run, id, data }: Extract<ToDevice, { type: 'run' }>): Promise<void> {
  const abort = new AbortController();
  aborts.set(run, abort);
  const facts = jobFacts({ id, data });
  const log = (message: string, more = {}) =>
    send({ type: 'log', facts: { ...facts, ...more }, message });
  let begun: StoppableRun | undefined;
  try {
    log('job begun in the device process');
    if (!tools) throw new Error('A job was sent before the device was ready.');
    const onProgress = throttle(run);
    const runTools = { ...tools, signal: abort.signal, onProgress };
    begun = currentRun.run(run, () => startRun(id, data, runTools));
    const result = await begun.result;
    const { timingsMs, totalMs, evaluations } = result;
    log('job made in the device process', { timingsMs, totalMs, evaluations });
    send({ type: 'done', run, result });
  } catch (thrown) {
    const error: unknown = abort.signal.aborted ? abort.signal.reason : thrown;
    sendFailed(run, error);
  } finally {
    aborts.delete(run);
  }
  await begun?.over;
  send({ type: 'over', run });
}

function sendFailed(run: number, error: unknown): void {
  send({ type: 'failed', run, failure: toFailure(toAppError(error)), ...causeOf(error) });
}

function throttle(run: number): JobTools['onProgress'] {
  let lastAt = 0;
  return (progress) => {
    const now = performance.now();
    if (now - lastAt < progressIntervalMs) return;
    lastAt = now;
    send({ type: 'progress', run, progress });
  };
}

/** The underlying error as text, for the supervisor's log. */
function causeOf(error: unknown): { cause?: string } {
  const cause = error instanceof AppError ? error.cause : error;
  return cause === undefined ? {} : { cause: format(cause) };
}
