/** The models of a device process: each loaded and warmed up on first use, and kept while there is room. */
import path from 'node:path';
import { AppError, type ErrorCode } from '../../errors.ts';
import type { ModelSummary } from '../../jobs/worker-registry.ts';
import { expectedBytes, fitTiles } from '../../pipeline/bundle-memory.ts';
import { bundleSha256, listBundles, type Manifest } from '../../pipeline/manifest.ts';
import { type LoadOptions, loadModel, type Model } from '../../pipeline/model.ts';
import type { ExecutionProvider } from '../../pipeline/session.ts';
import { unknownModel } from '../absent-model.ts';
import { bundleStamp } from '../bundle-stamp.ts';
import type { DeviceSettings, ModelChange, UnopenedModel } from '../protocol.ts';
import { ModelCache } from './model-cache.ts';

export interface LoadedModels {
  readonly summaries: ModelSummary[];
  /**
   * Runs `work` on a model, which stays loaded until `work` has settled.
   * @param signal ends the wait for the model
   * @throws unknown_model | invalid_bundle | model_too_large | device_unavailable | device_lost | out_of_device_memory, or
   *   what `work` throws
   */
  use<T>(
    name: string,
    signal: AbortSignal | undefined,
    work: (model: Model) => Promise<T> | T,
  ): Promise<T>;
  /**
   * Loads all of them, so that none waits for its first job.
   * @throws as `use`, or model_too_large when they do not fit together
   */
  preload(names: readonly string[]): Promise<void>;
}

type ModelSettings = Pick<
  DeviceSettings,
  'device' | 'threads' | 'modelsDir' | 'memoryBytes' | 'modelBudgetBytes'
>;

/** Faults of a bundle as it is, for this device: the same would come again. */
const lastingFaults: ReadonlySet<ErrorCode> = new Set(['invalid_bundle', 'model_too_large']);

/**
 * @param onChange told of each model that has been loaded or unloaded
 * @param onUnopened told of each that cannot be opened as it is, before whoever wanted it hears of that
 * @throws invalid_bundle
 */
export async function openModels(
  settings: ModelSettings,
  onChange: (change: ModelChange) => void = () => {},
  onUnopened: (unopened: UnopenedModel) => void = () => {},
): Promise<LoadedModels> {
  const { modelsDir, memoryBytes, modelBudgetBytes } = settings;
  const manifests = new Map(
    (await listBundles(modelsDir)).map((manifest) => [manifest.name, manifest]),
  );
  const onCpu = settings.device === 'cpu';
  const options: LoadOptions = {
    executionProvider: shownAlone(executionProviderOf(settings.device)),
    threads: settings.threads,
    memoryBytes,
  };
  const expectedOf = (name: string): number => {
    const manifest = manifests.get(name);
    if (!manifest) throw unknownModel(name, [...manifests.keys()]);
    return expectedBytes(fitTiles(manifest, memoryBytes), onCpu);
  };
  const tellingIfUnopened = async <T>(name: string, open: () => Promise<T> | T): Promise<T> => {
    const stamp = await bundleStamp(path.join(modelsDir, name));
    try {
      return await open();
    } catch (error) {
      if (error instanceof AppError && lastingFaults.has(error.code)) {
        onUnopened({ model: name, stamp, detail: withAdvice(error) });
      }
      throw error;
    }
  };
  const cache = new ModelCache<Model>(modelBudgetBytes, {
    expect: (name) => {
      const bytes = expectedOf(name);
      return tellingIfUnopened(name, () => {
        if (bytes > modelBudgetBytes) throw tooLarge(`The model ${name} needs`, bytes, settings);
        return bytes;
      });
    },
    load: async (name) => {
      const expected = expectedOf(name);
      const startedAt = performance.now();
      const before = process.memoryUsage.rss();
      const model = await tellingIfUnopened(name, () =>
        loadModel(path.join(modelsDir, name), options),
      );
      await warmUp(model);
      // The memory of another device than a CPU is not this process's: there, only the arithmetic is known.
      const grown = onCpu ? process.memoryUsage.rss() - before : 0;
      const bytes = Math.max(expected, grown);
      onChange({ model: name, bytes, milliseconds: performance.now() - startedAt });
      return { model, bytes };
    },
    unload: async (name, model) => {
      await model.dispose();
      onChange({ model: name, bytes: 0, milliseconds: 0 });
    },
  });

  return {
    summaries: [...manifests.values()].map(summaryOf),
    use: (name, signal, work) => cache.use(name, signal, work),
    preload: async (names) => {
      for (const name of names) await cache.use(name, undefined, () => {});
      if (names.every((name) => cache.has(name))) return;
      const bytes = names.reduce((sum, name) => sum + cache.measured(name), 0);
      throw tooLarge(
        `${names.join(', ')} (MODEL and PRELOAD_MODELS) together need`,
        bytes,
        settings,
      );
    },
  };
}

/** Too large is advised already. */
const withAdvice = ({ code, message }: AppError): string =>
  code === 'invalid_bundle'
    ? `${message} See whether its files are whole: \`pisa-serve models verify\`.`
    : message;

/** One that fails leaves no memory taken: its job is tried again, and loads it anew. */
async function warmUp(model: Model): Promise<void> {
  try {
    await model.warmUp();
  } catch (error) {
    await model.dispose();
    throw error;
  }
}

/** A device process sees its own GPU alone, see ../visible-gpu.ts. */
const shownAlone = (provider: ExecutionProvider): ExecutionProvider =>
  typeof provider === 'string' ? provider : { ...provider, isOnlyVisible: true };

/** @param device as in DEVICES, already validated there */
export function executionProviderOf(device: string): ExecutionProvider {
  if (device.startsWith('cuda:')) return { cuda: Number(device.slice('cuda:'.length)) };
  return device === 'webgpu' ? 'webgpu' : 'cpu';
}

const megabytes = (bytes: number): string => `${Math.ceil(bytes / 1e6)} MB`;

function tooLarge(who: string, bytes: number, settings: ModelSettings): AppError {
  return new AppError(
    'model_too_large',
    `${who} about ${megabytes(bytes)} of memory on ${settings.device}, more than the ${megabytes(settings.modelBudgetBytes)} that models may take there. Its operator can set MODEL_MEMORY_MEGABYTES to at least ${Math.ceil(bytes / 1e6)}, or give the bundle smaller tiles (docs/models.md).`,
  );
}

function summaryOf(manifest: Manifest): ModelSummary {
  const { name, version, license, source, description, scale, colorFix } = manifest;
  const sha256 = bundleSha256(manifest);
  return { name, version, sha256, license, source, description, scale, colorfix: colorFix };
}
