/** The messages between the supervisor and a device process (Node's IPC, `serialization: 'advanced'`). */
import type { Failure } from '../errors.ts';
import type { Progress, UpscaleJobData, UpscaleJobResult } from '../jobs/job.ts';
import type { PixelLimits } from '../jobs/output-size.ts';
import type { ModelSummary } from '../jobs/worker-registry.ts';
import type { StoreLocation } from '../storage/open-store.ts';

/** All that a device process knows of the configuration: it never reads the environment. */
export interface DeviceSettings {
  /** As in DEVICES: cpu, webgpu, cuda:0. */
  device: string;
  /** CPU threads of a `cpu` device. */
  threads: number;
  modelsDir: string;
  /** The bundle of requests that name none. */
  defaultModel: string;
  /** More bundles that are loaded and warmed up before the process is ready. */
  preload: readonly string[];
  /** Memory of the device, which chooses the tile sizes; absent: not known, or a CPU. */
  memoryBytes?: number | undefined;
  /** What loaded models may take together. */
  modelBudgetBytes: number;
  store: StoreLocation;
  limits: PixelLimits;
  /** Bytes of latents and residuals that one image may keep, see src/jobs/kept-objects.ts. 0: nothing is kept. */
  keepMaxBytes: number;
}

/** A model has been loaded, or unloaded: then `bytes` is 0. */
export interface ModelChange {
  model: string;
  bytes: number;
  /** Loading and warm-up. */
  milliseconds: number;
}

/** A bundle that cannot be opened as it is. */
export interface UnopenedModel {
  model: string;
  /** Of its files before that was tried, see bundle-stamp.ts. */
  stamp: string;
  /** For the operator: what is wrong with it, and what to do. */
  detail: string;
}

export type ToDevice =
  | { type: 'start'; settings: DeviceSettings }
  /** `run` numbers the runs of a device: the same job may come again before its last run has stopped. */
  | { type: 'run'; run: number; id: string; data: UpscaleJobData }
  /** Stop the job and answer `failed` with this failure at the next turn of the event loop, which a tile holds up. */
  | { type: 'abort'; run: number; failure: Failure };

export type FromDevice =
  /** Before it warms up: what it will have when it is ready. */
  | { type: 'models'; models: ModelSummary[] }
  | { type: 'ready' }
  /** It cannot start; the process exits after this. */
  | { type: 'unusable'; failure: Failure; cause?: string }
  | { type: 'model'; change: ModelChange }
  | { type: 'unopened'; unopened: UnopenedModel }
  | { type: 'log'; facts: Record<string, unknown>; message: string }
  | { type: 'progress'; run: number; progress: Progress }
  | { type: 'done'; run: number; result: UpscaleJobResult }
  /** The first one counts: whoever breaks the device is told of at once, and ends after that. */
  | { type: 'failed'; run: number; failure: Failure; cause?: string }
  /** After `done` or `failed`: nothing of the run goes on. Later only where it was stopped in the middle of something. */
  | { type: 'over'; run: number }
  | { type: 'heartbeat'; residentBytes: number };

/** How often a device process says that it lives. A graph run holds it up, so silence is judged by far longer. */
export const heartbeatIntervalMs = 1000;
