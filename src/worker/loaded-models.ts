/** The models of a device process: each loaded and warmed up once, on first use, and kept. */
import { createHash } from 'node:crypto';
import path from 'node:path';
import { AppError } from '../errors.ts';
import type { ModelSummary } from '../jobs/worker-registry.ts';
import { listBundles, type Manifest } from '../pipeline/manifest.ts';
import { loadModel, type Model } from '../pipeline/model.ts';
import type { DeviceSettings } from './protocol.ts';

export interface LoadedModels {
  readonly summaries: ModelSummary[];
  /** @throws unknown_model | invalid_bundle | device_unavailable */
  get(name: string): Promise<Model>;
}

/** @throws invalid_bundle */
export async function openModels(
  settings: Pick<DeviceSettings, 'device' | 'threads' | 'modelsDir'>,
): Promise<LoadedModels> {
  const manifests = await listBundles(settings.modelsDir);
  const known = new Set(manifests.map((manifest) => manifest.name));
  const loads = new Map<string, Promise<Model>>();

  const load = async (name: string): Promise<Model> => {
    const model = await loadModel(path.join(settings.modelsDir, name), {
      executionProvider: executionProviderOf(settings.device),
      threads: settings.threads,
    });
    await model.warmUp();
    return model;
  };

  return {
    summaries: manifests.map(summaryOf),
    get: (name) => {
      if (!known.has(name)) return Promise.reject(unknownModel(name, [...known]));
      const running = loads.get(name) ?? load(name);
      loads.set(name, running);
      // A load that failed may succeed later (memory, a volume that was away): do not keep the failure.
      running.catch(() => loads.delete(name));
      return running;
    },
  };
}

/** @param device as in DEVICES, already validated there */
export function executionProviderOf(device: string): 'cpu' | 'webgpu' | { cuda: number } {
  if (device.startsWith('cuda:')) return { cuda: Number(device.slice('cuda:'.length)) };
  return device === 'webgpu' ? 'webgpu' : 'cpu';
}

function unknownModel(name: string, known: string[]): AppError {
  return new AppError(
    'unknown_model',
    `There is no model "${name}". This service has: ${known.join(', ') || 'none'}.`,
  );
}

/** The manifest has the hashes of all graphs, so its own stands for the whole bundle. */
export function bundleSha256(manifest: Manifest): string {
  return createHash('sha256').update(JSON.stringify(manifest)).digest('hex');
}

function summaryOf(manifest: Manifest): ModelSummary {
  const { name, version, license, source, description, scale, colorFix } = manifest;
  const sha256 = bundleSha256(manifest);
  return { name, version, sha256, license, source, description, scale, colorfix: colorFix };
}
