/** A run that is told to stop ends at once; what it was in the middle of goes on, and leaves nothing behind. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { AppError } from '../../../src/errors.ts';
import {
  inputKey,
  outputKey,
  type Progress,
  tensorKeys,
  type UpscaleJobData,
} from '../../../src/jobs/job.ts';
import { resolveParams } from '../../../src/jobs/params.ts';
import type { Model } from '../../../src/pipeline/model.ts';
import { ModelCache } from '../../../src/worker/device-process/model-cache.ts';
import { startRun } from '../../../src/worker/device-process/stoppable-run.ts';
import { bundlePath } from '../pipeline/fixtures.ts';
import { loadOnCpu, picture } from '../pipeline/run.ts';

/** Something that takes until the test lets it go on. */
class Gate {
  /** Resolves when somebody has come to it. */
  readonly reached: Promise<void>;
  open: () => void = () => undefined;
  #arrive: () => void = () => undefined;
  readonly #opened: Promise<void>;

  constructor() {
    this.reached = new Promise((resolve) => {
      this.#arrive = resolve;
    });
    this.#opened = new Promise((resolve) => {
      this.open = resolve;
    });
  }

  async pass(): Promise<void> {
    this.#arrive();
    await this.#opened;
  }
}

const id = '7f0b7d1c-0000-4000-8000-000000000000';
const reason = new AppError('job_timeout', 'too long');
let model: Model;
let photo: Buffer;
let data: UpscaleJobData;
/** By what is done and to which key or model; what has no gate does not wait. */
let gates: Record<string, Gate>;
/** What began, in its order. */
let log: string[];
let cache: ModelCache<Model>;
let loadFails: boolean;

beforeAll(async () => {
  model = await loadOnCpu(bundlePath('identity'));
  photo = await picture(24, 16);
  data = {
    params: resolveParams({}, 'identity'),
    input: { key: inputKey(id), width: 24, height: 16, bytes: 1, content_type: 'image/png' },
    ttlSeconds: 60,
    timeoutMs: 1000,
    requestId: id,
  };
});
afterAll(() => model.dispose());
beforeEach(() => {
  gates = {};
  log = [];
  loadFails = false;
  cache = new ModelCache<Model>(100, {
    expect: () => 1,
    load: async (name) => {
      await step(`load ${name}`);
      if (loadFails) throw new Error('no memory');
      return { model, bytes: 1 };
    },
    unload: async () => undefined,
  });
});

async function step(what: string): Promise<void> {
  log.push(what);
  await gates[what]?.pass();
}

function start() {
  const progress: Progress[] = [];
  const abort = new AbortController();
  const run = startRun(id, data, {
    models: { summaries: [], preload: async () => undefined, use: cache.use.bind(cache) },
    store: {
      put: (key) => step(`put ${key}`),
      expire: async (key) => {
        await step(`expire ${key}`);
        return true;
      },
      get: async (key) => {
        await step(`get ${key}`);
        return photo;
      },
      has: async () => true,
    },
    settings: {
      device: 'cpu',
      limits: { maxInputPixels: 1e6, maxOutputPixels: 1e7, maxRestoredPixels: 1e7 },
      keepMaxBytes: 1e6,
    },
    signal: abort.signal,
    onProgress: (step) => progress.push(step),
  });
  return { ...run, abort, progress };
}

/** What a promise came to by the time all that is due has run. */
const outcome = (promise: Promise<unknown>): Promise<unknown> =>
  Promise.race([
    promise.then(
      () => 'resolved',
      (error: unknown) => error,
    ),
    new Promise((resolve) => setImmediate(() => setImmediate(() => resolve('waits')))),
  ]);

const gateAt = (what: string): Gate => {
  const gate = new Gate();
  gates[what] = gate;
  return gate;
};

describe('a run that is told to stop', () => {
  test('while its model loads ends at once; the model is there for the next', async () => {
    const load = gateAt('load identity');
    const { result, over, abort, progress } = start();
    await load.reached;
    abort.abort(reason);
    expect(await outcome(result)).toBe(reason);
    expect(await outcome(over)).toBe('waits');
    // The next one waits for the same load.
    const next = start();
    expect(await outcome(next.result)).toBe('waits');
    load.open();
    await over;
    expect(log.filter((entry) => entry.startsWith('put'))).toEqual([]);
    expect(progress).toEqual([]);
    await next.result;
    expect(log.filter((entry) => entry.startsWith('load'))).toEqual(['load identity']);
    expect(log).toContain(`put ${outputKey(id)}`);
  });

  test('while its photo is read ends at once and loads no model', async () => {
    const read = gateAt(`get ${inputKey(id)}`);
    const { result, over, abort } = start();
    await read.reached;
    abort.abort(reason);
    expect(await outcome(result)).toBe(reason);
    expect(await outcome(over)).toBe('waits');
    read.open();
    await over;
    expect(log).toEqual([`get ${inputKey(id)}`]);
  });

  test('while its result is written ends when that is there, and writes no more', async () => {
    const write = gateAt(`put ${outputKey(id)}`);
    const { result, over, abort } = start();
    await write.reached;
    const before = log.length;
    abort.abort(reason);
    // Whoever hears of the end deletes what it left: that must be there by then.
    expect(await outcome(result)).toBe('waits');
    write.open();
    await expect(result).rejects.toBe(reason);
    await over;
    expect(log.slice(before)).toEqual([]);
  });

  test('while its upload is given another life ends when that is done', async () => {
    const write = gateAt(`expire ${inputKey(id)}`);
    const { result, over, abort } = start();
    await write.reached;
    abort.abort(reason);
    // In S3 that is a copy, with which the object would be there again after it was deleted.
    expect(await outcome(result)).toBe('waits');
    write.open();
    await expect(result).rejects.toBe(reason);
    await over;
  });

  test('while it keeps its latents is heard of no more', async () => {
    const write = gateAt(`put ${tensorKeys(id).latents}`);
    const { result, over, abort, progress } = start();
    await write.reached;
    const before = progress.length;
    abort.abort(reason);
    write.open();
    await expect(result).rejects.toBe(reason);
    await over;
    expect(progress.length).toBe(before);
  });

  test('while its model loads, which then fails, leaves no rejection to nobody', async () => {
    const load = gateAt('load identity');
    const { result, over, abort } = start();
    await load.reached;
    abort.abort(reason);
    await expect(result).rejects.toBe(reason);
    loadFails = true;
    load.open();
    await over;
  });

  test('but is not, gives its result, and is over with it', async () => {
    const { result, over, progress } = start();
    expect(await result).toMatchObject({ output: { key: outputKey(id) }, device: 'cpu' });
    await over;
    expect(log.at(-1)).toBe(`expire ${inputKey(id)}`);
    expect(log).not.toContain(`put ${inputKey(id)}`);
    expect(progress.length).toBeGreaterThan(5);
  });
});
