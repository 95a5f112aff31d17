/** One job in the device process, whole: read the input, run the pipeline, write the result. */
import { AppError } from '../errors.ts';
import {
  outputKey,
  type Progress,
  type UpscaleJobData,
  type UpscaleJobResult,
} from '../jobs/job.ts';
import { upscale } from '../pipeline/upscale.ts';
import type { ObjectStore } from '../storage/object-store.ts';
import { bundleSha256, type LoadedModels } from './loaded-models.ts';
import type { DeviceSettings } from './protocol.ts';

export interface JobTools {
  models: LoadedModels;
  store: ObjectStore;
  settings: Pick<DeviceSettings, 'device' | 'limits' | 'software'>;
  /** Aborts between two tiles; its reason is an AppError. */
  signal: AbortSignal;
  onProgress: (progress: Progress) => void;
}

/**
 * Running it twice for the same job leaves one result: the output's key is the job's, and the same input gives
 * the same bytes.
 * @throws input_expired, unknown_model, whatever the pipeline throws, or the signal's reason
 */
export async function runJob(
  id: string,
  { params, input, ttlSeconds }: UpscaleJobData,
  { models, store, settings, signal, onProgress }: JobTools,
): Promise<UpscaleJobResult> {
  const startedAt = performance.now();
  const lowRes = await store.get(input.key);
  if (!lowRes) {
    throw new AppError(
      'input_expired',
      'The uploaded image was gone before the job could run. Send it again.',
    );
  }
  const model = await models.get(params.model);
  const superRes = await upscale(lowRes, params, {
    model,
    limits: settings.limits,
    signal,
    onProgress,
    ...(settings.software === undefined ? {} : { software: settings.software }),
  });
  signal.throwIfAborted();
  const key = outputKey(id);
  await store.put(key, superRes.image, ttlSeconds);
  return {
    output: {
      key,
      width: superRes.width,
      height: superRes.height,
      bytes: superRes.image.byteLength,
      content_type: superRes.contentType,
      format: superRes.format,
      expiresAt: Date.now() + ttlSeconds * 1000,
    },
    colorfix: superRes.colorfix,
    evaluations: superRes.evaluations,
    timingsMs: superRes.timingsMs,
    totalMs: performance.now() - startedAt,
    model: {
      name: model.manifest.name,
      version: model.manifest.version,
      sha256: bundleSha256(model.manifest),
    },
    device: settings.device,
  };
}
