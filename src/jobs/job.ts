/**
 * The job contract: what travels through Redis between api and worker. Images never do: job data holds
 * storage keys, return values hold references.
 */
import { createHash } from 'node:crypto';
import type { OutputFormat, UpscaleParams } from './params.ts';
import type { Sweep } from './sheet.ts';
import type { Webhook } from './webhook.ts';

export const upscaleQueueName = 'upscale';

/** The pipeline's stages, in order. Names are those of `timings_ms` in the job object. */
export const stages = [
  'decode_image',
  'encode_latents',
  'predict_residual',
  'decode_latents',
  'color_fix',
  'encode_image',
] as const;
export type Stage = (typeof stages)[number];

/** Milliseconds spent in each stage. */
export type StageTimings = Record<Stage, number>;

export interface Progress {
  stage: Stage;
  /** Share of the whole job that is done, 0..1, never falling within one attempt. */
  fraction: number;
}

export interface ImageFacts {
  /** Upright (after EXIF orientation), in pixels. */
  width: number;
  height: number;
  bytes: number;
  content_type: string;
}

/** `batch` jobs run when no `interactive` one waits. */
export const jobPriorities = ['interactive', 'batch'] as const;
export type JobPriority = (typeof jobPriorities)[number];

/** What a job makes of its photo: one image, one at other dials, a sheet of many, a map of what was invented. */
export const jobKinds = ['upscale', 'adjust', 'sweep', 'heatmap'] as const;
type JobKind = (typeof jobKinds)[number];

/** The job whose upload, latents and residuals another one uses. */
interface JobSource {
  id: string;
  /** When what is kept of it ends, epoch ms. */
  expiresAt: number;
}

/** BullMQ job data. The BullMQ job id is the public job id (a UUID). */
export interface UpscaleJobData {
  /** Absent: upscale. */
  kind?: JobKind;
  /** Absent: the job has an upload of its own. */
  source?: JobSource;
  params: UpscaleParams;
  /**
   * True: the model is that of the api which took the job. While it is new there, workers that have it are on their way.
   * Absent: as false.
   */
  isDefaultModel?: boolean;
  /** With a `source`, `key` is that of the source's upload. */
  input: ImageFacts & { key: string };
  /** The dials of a contact sheet; those of `params` are not used then. */
  sweep?: Sweep;
  /** Storage keys of the strength maps. */
  maps?: { pix?: string; sem?: string };
  /** Life of the result, in seconds after it is finished. */
  ttlSeconds: number;
  /** Time limit of one attempt, in milliseconds. */
  timeoutMs: number;
  /**
   * What the result depends on, image and parameters, as a digest. Absent: the result is not kept for others to
   * be answered from.
   */
  contentKey?: string;
  /** Name of the client whose job this is. */
  client?: string;
  /** Absent: interactive. */
  priority?: JobPriority;
  /** Who is told when the job has ended. */
  webhook?: Webhook;
  /** Correlates the log lines of api and worker. */
  requestId: string;
  /** The span that what happens to the job belongs to (W3C trace context). Absent while traces are off. */
  traceparent?: string;
}

/** An object that stays after the job, for other dials. */
export interface KeptObject {
  /** Storage key. */
  key: string;
  bytes: number;
  /** Epoch ms. */
  expiresAt: number;
}

/** How many UNet evaluations Eq. 8 needed and were not kept: the `mode` label of the metrics. */
export type Evaluations = 0 | 1 | 2;

/** BullMQ return value. */
export interface UpscaleJobResult {
  output: ImageFacts & { key: string; format: OutputFormat; expiresAt: number };
  /** From the model when the request named none. */
  colorfix: NonNullable<UpscaleParams['colorfix']>;
  evaluations: Evaluations;
  /** What was kept, or found kept and used. */
  kept: KeptObject[];
  timingsMs: StageTimings;
  /** Whole time in the device process: read input, pipeline, write result. */
  totalMs: number;
  /** `sha256` identifies the bundle: its manifest, which has the hashes of its graphs. */
  model: { name: string; version: string; sha256: string };
  device: string;
}

export const inputKey = (id: string): string => `input/${id}`;
export const outputKey = (id: string): string => `output/${id}`;
export const mapKeys = (id: string) => ({ pix: `mappix/${id}`, sem: `mapsem/${id}` });
export const tensorKeys = (id: string) => ({
  latents: `latents/${id}`,
  eps_pix: `epspix/${id}`,
  eps_pisa: `epspisa/${id}`,
});

/** The job that makes the heat map of a job: one and the same for all who ask. A UUID of version 8 (RFC 9562). */
export function heatmapId(id: string): string {
  const hex = createHash('sha256').update(`heatmap:${id}`).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** Every object that can be there because of a job, except its result. */
export const sideKeys = (id: string): string[] => [
  inputKey(id),
  ...Object.values(mapKeys(id)),
  ...Object.values(tensorKeys(id)),
];

/**
 * Life of an uploaded image whose job has not ended. It is deleted when the job ends; this only bounds what a
 * queue that nobody works off can hold, so it is far longer than any reasonable wait.
 */
export const inputTtlSeconds = 7 * 86_400;
