/** One job in the device process, whole: read the input, run the pipeline, write the result. */
import { AppError } from '../../errors.ts';
import {
  type KeptObject,
  outputKey,
  type Progress,
  type UpscaleJobData,
  type UpscaleJobResult,
} from '../../jobs/job.ts';
import { contactSheet } from '../../pipeline/contact-sheet.ts';
import { heatmap } from '../../pipeline/heatmap.ts';
import type { StrengthMaps, UpscaleContext, UpscaleResult } from '../../pipeline/run.ts';
import { upscale } from '../../pipeline/upscale.ts';
import type { DeviceSettings } from '../protocol.ts';
import type { LoadedModels } from './loaded-models.ts';
import { ObjectKeeper } from './object-keeper.ts';
import type { JobStore } from './run-store.ts';

export interface JobTools {
  models: LoadedModels;
  store: JobStore;
  settings: Pick<DeviceSettings, 'device' | 'limits' | 'keepMaxBytes'>;
  /** Aborts between two tiles; its reason is an AppError. */
  signal: AbortSignal;
  onProgress: (progress: Progress) => void;
}

type Upload = Pick<KeptObject, 'key' | 'bytes'>;

/**
 * Running it twice for the same job leaves one result: the output's key is the job's, and the same input gives
 * the same bytes.
 * @throws input_expired, unknown_model, model_too_large, model_failed, whatever the pipeline throws, or the signal's
 *   reason
 */
export async function runJob(
  id: string,
  data: UpscaleJobData,
  tools: JobTools,
): Promise<UpscaleJobResult> {
  const startedAt = performance.now();
  const { store, settings, signal } = tools;
  const { params, ttlSeconds } = data;
  const keeper = new ObjectKeeper({
    store,
    owner: data.source?.id ?? id,
    isOwn: data.source === undefined,
    tensorsExpireAt: data.source?.expiresAt ?? Date.now() + data.timeoutMs + ttlSeconds * 1000,
    maxBytes: settings.keepMaxBytes,
  });
  const keeps = settings.keepMaxBytes > 0;
  const run = readAndMake(data, tools, keeps ? keeper : undefined);
  const { made, model, uploads } = await run.catch(async (error: unknown) => {
    // Whoever hears that a job has failed deletes what it left.
    await keeper.written();
    throw asJobFault(error, params.model);
  });
  signal.throwIfAborted();
  const key = outputKey(id);
  const expiresAt = Date.now() + ttlSeconds * 1000;
  const keptUntil = data.source?.expiresAt ?? expiresAt;
  await Promise.all([store.put(key, made.image, ttlSeconds), keeper.written()]);
  // Not before the result is there: another attempt needs them, and may come after they have ended.
  if (keeps) await keepUploads(keeper, data, uploads, keptUntil);
  return {
    output: {
      key,
      width: made.width,
      height: made.height,
      bytes: made.image.byteLength,
      content_type: made.contentType,
      format: made.format,
      expiresAt,
    },
    colorfix: made.colorfix,
    evaluations: made.evaluations,
    kept: keeper.objects(keptUntil),
    timingsMs: made.timingsMs,
    totalMs: performance.now() - startedAt,
    model,
    device: settings.device,
  };
}

/** The uploads are held only in here: after it, their sizes are all that is needed. */
async function readAndMake(
  data: UpscaleJobData,
  { models, store, settings, signal, onProgress }: JobTools,
  kept: ObjectKeeper | undefined,
) {
  const lowRes = await readInput(store, data.input.key, data);
  const maps = await readMaps(store, data);
  const uploads: Upload[] = [{ key: data.input.key, bytes: lowRes.byteLength }];
  for (const name of ['pix', 'sem'] as const) {
    const [key, map] = [data.maps?.[name], maps[name]];
    if (key && map) uploads.push({ key, bytes: map.byteLength });
  }
  return models.use(data.params.model, signal, async (loaded) => {
    const context: UpscaleContext = {
      model: loaded,
      limits: settings.limits,
      maps,
      signal,
      onProgress,
      ...(kept ? { kept } : {}),
    };
    const { name, version } = loaded.manifest;
    return {
      made: await make(data, lowRes, context),
      model: { name, version, sha256: loaded.sha256 },
      uploads,
    };
  });
}

/** What is said of a bundle or a device at a start is for its operator: it names files, and what to install. */
function asJobFault(error: unknown, model: string): unknown {
  const isOfStart =
    error instanceof AppError &&
    (error.code === 'invalid_bundle' || error.code === 'device_unavailable');
  if (!isOfStart) return error;
  const detail = `The model ${model} cannot be used. Choose another model; its operator finds more in the log.`;
  return new AppError('model_failed', detail, { cause: error });
}

function make(
  { kind, params, sweep }: UpscaleJobData,
  lowRes: Uint8Array,
  context: UpscaleContext,
): Promise<UpscaleResult> {
  if (kind === 'sweep' && sweep) return contactSheet(lowRes, params, sweep, context);
  if (kind === 'heatmap') return heatmap(lowRes, params, context);
  return upscale(lowRes, params, context);
}

async function readInput(
  store: JobStore,
  key: string,
  { source }: UpscaleJobData,
): Promise<Buffer> {
  const bytes = await store.get(key);
  if (bytes) return bytes;
  throw new AppError(
    'input_expired',
    source
      ? 'The image of the first job is no longer kept. Send it again, with these dials.'
      : 'The uploaded image was gone before the job could run. Send it again.',
  );
}

async function readMaps(store: JobStore, data: UpscaleJobData): Promise<StrengthMaps> {
  const { pix, sem } = data.maps ?? {};
  return {
    ...(pix ? { pix: await readInput(store, pix, data) } : {}),
    ...(sem ? { sem: await readInput(store, sem, data) } : {}),
  };
}

/** From now on they live as long as the result, and count as what is kept. */
async function keepUploads(
  keeper: ObjectKeeper,
  { input, source }: UpscaleJobData,
  uploads: readonly Upload[],
  expiresAt: number,
): Promise<void> {
  for (const { key, bytes } of uploads) {
    // The image of another job has the life that this one gave it.
    if (source && key === input.key) keeper.note(key, bytes);
    else await keeper.keepUpload(key, bytes, expiresAt);
  }
}
