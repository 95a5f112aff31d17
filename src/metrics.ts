/**
 * Every metric of the service, in one Prometheus registry. The api and the supervisor write to it and each
 * process serves it at `/metrics`; `serve`, which is both, serves both at once.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Evaluations } from './jobs/job.ts';

export const registry = new Registry();

// CPU, memory, garbage collection and event-loop lag (`nodejs_eventloop_lag_p99_seconds`) of this process.
collectDefaultMetrics({ register: registry });
// Gauges under the names of counters; the same by type (`nodejs_active_handles` and so on) stay.
for (const what of ['handles', 'requests', 'resources']) {
  registry.removeSingleMetric(`nodejs_active_${what}_total`);
}

/** The `mode` label: how many UNet evaluations Eq. 8 needed, which is what a job's price depends on. */
const modes = ['none', 'one', 'both'] as const;
type Mode = (typeof modes)[number];
export const modeOf = (evaluations: Evaluations): Mode => modes[evaluations];

// From a tiny model on a small photo (milliseconds) to a diffusion model on a large one (minutes).
const inferenceBuckets = [
  0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600,
];
/** Of waits, in seconds; the whole ones are the targets that the chart's `monitoring.queueWaitTargetSeconds` takes. */
export const waitBuckets = [
  0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 180, 300, 600, 1800, 3600,
];
const httpBuckets = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
];

const registers = [registry];

export const metrics = {
  /** Labelled by `stage` (the names of `timings_ms`), `model`, `mode`. */
  stageSeconds: new Histogram({
    name: 'pisa_stage_duration_seconds',
    help: 'Time of one pipeline stage of one job.',
    labelNames: ['stage', 'model', 'mode'] as const,
    buckets: inferenceBuckets,
    registers,
  }),
  queueWaitSeconds: new Histogram({
    name: 'pisa_queue_wait_seconds',
    help: 'Time from accepting a job to the start of the attempt that succeeded.',
    labelNames: ['model', 'priority'] as const,
    buckets: waitBuckets,
    registers,
  }),
  processingSeconds: new Histogram({
    name: 'pisa_processing_duration_seconds',
    help: 'Time of a job in the device process: read input, pipeline, write result.',
    labelNames: ['model', 'mode'] as const,
    buckets: inferenceBuckets,
    registers,
  }),
  jobSeconds: new Histogram({
    name: 'pisa_job_duration_seconds',
    help: 'Time from accepting a job to its result, waiting and retries included.',
    labelNames: ['model', 'mode'] as const,
    buckets: inferenceBuckets,
    registers,
  }),
  /**
   * `status` is final: succeeded, failed or canceled. `code` is empty for succeeded, and `requested_timeout` for a
   * `job_timeout` at a limit that its client asked for.
   */
  jobs: new Counter({
    name: 'pisa_jobs_total',
    help: 'Jobs that reached a final status, by status and error code.',
    labelNames: ['status', 'code', 'model'] as const,
    registers,
  }),
  jobAttemptsLost: new Counter({
    name: 'pisa_job_attempts_lost_total',
    help: 'Attempts that ended early and were queued again, by reason.',
    labelNames: ['reason'] as const,
    registers,
  }),
  deviceUp: new Gauge({
    name: 'pisa_device_up',
    help: '1 while the device process is warmed up and takes jobs, else 0.',
    labelNames: ['device'] as const,
    registers,
  }),
  deviceBusySeconds: new Counter({
    name: 'pisa_device_busy_seconds_total',
    help: 'Time in which the device process had at least one job.',
    labelNames: ['device'] as const,
    registers,
  }),
  deviceJobs: new Gauge({
    name: 'pisa_device_jobs',
    help: 'Jobs in the device process now.',
    labelNames: ['device'] as const,
    registers,
  }),
  deviceResidentBytes: new Gauge({
    name: 'pisa_device_resident_memory_bytes',
    help: 'Resident memory of the device process, as of its last heartbeat.',
    labelNames: ['device'] as const,
    registers,
  }),
  deviceRestarts: new Counter({
    name: 'pisa_device_restarts_total',
    help: 'Device processes replaced, by reason: crashed, hung, broken, disobeyed, memory.',
    labelNames: ['device', 'reason'] as const,
    registers,
  }),
  /** Absent for a model that is not loaded. */
  modelMemoryBytes: new Gauge({
    name: 'pisa_model_memory_bytes',
    help: 'Memory of each loaded model on each device: weights and activations.',
    labelNames: ['device', 'model'] as const,
    registers,
  }),
  modelLoadSeconds: new Histogram({
    name: 'pisa_model_load_duration_seconds',
    help: 'Time of loading and warming up a model.',
    labelNames: ['model'] as const,
    buckets: inferenceBuckets,
    registers,
  }),
  modelUnloads: new Counter({
    name: 'pisa_model_unloads_total',
    help: 'Models unloaded to make room for another.',
    labelNames: ['device', 'model'] as const,
    registers,
  }),
  /** `outcome`: hit, miss, or bypass for a request that asked for a new result. */
  resultCache: new Counter({
    name: 'pisa_result_cache_total',
    help: 'Accepted requests by whether a stored result answered them.',
    labelNames: ['outcome'] as const,
    registers,
  }),
  /** `client` is the name of a key, or `anyone`; empty for a key that is not known. */
  requestsRefused: new Counter({
    name: 'pisa_requests_refused_total',
    help: 'Requests refused for their key or its limits, by error code and client.',
    labelNames: ['code', 'client'] as const,
    registers,
  }),
  eventStreams: new Gauge({
    name: 'pisa_event_streams',
    help: 'Open streams of GET /upscale/{id}/events.',
    registers,
  }),
  imageFetches: new Gauge({
    name: 'pisa_image_fetches',
    help: 'Images that are being fetched by URL now.',
    registers,
  }),
  uploadBytes: new Gauge({
    name: 'pisa_upload_bytes',
    help: 'Bytes set aside for uploads that arrive or are being stored now.',
    registers,
  }),
  keptEvictions: new Counter({
    name: 'pisa_kept_evictions_total',
    help: 'Kept objects deleted before their time, to stay under KEEP_MAX_MEGABYTES.',
    registers,
  }),
  /** `outcome`: delivered, gone, refused_url, timeout, unreachable, or the class of the status (3xx, 4xx, 5xx). */
  webhookAttempts: new Counter({
    name: 'pisa_webhook_attempts_total',
    help: 'Attempts to deliver a webhook, by outcome.',
    labelNames: ['outcome'] as const,
    registers,
  }),
  webhookAttemptSeconds: new Histogram({
    name: 'pisa_webhook_attempt_duration_seconds',
    help: 'Time of one attempt to deliver a webhook.',
    buckets: httpBuckets,
    registers,
  }),
  /** `outcome`: delivered, or failed for good. */
  webhooks: new Counter({
    name: 'pisa_webhooks_total',
    help: 'Webhooks that reached a final state.',
    labelNames: ['outcome'] as const,
    registers,
  }),
  /** Set by the api. `route` is the route's pattern, never the raw path. */
  httpSeconds: new Histogram({
    name: 'pisa_http_request_duration_seconds',
    help: 'Time from an HTTP request to the end of its response; event streams are left out.',
    labelNames: ['method', 'route', 'status'] as const,
    buckets: httpBuckets,
    registers,
  }),
};

/**
 * The state of queues, kept objects, workers and Redis, which the api reads at each scrape. Every api says the same:
 * take the maximum, not the sum. Absent where nobody looks (a worker) or nothing is known (Redis is away).
 */
export const queueMetrics = {
  /** `state` is queued or processing. */
  queueJobs: new Gauge({
    name: 'pisa_queue_jobs',
    help: 'Jobs in the queue now.',
    labelNames: ['state'] as const,
    registers,
  }),
  queueOldestWaitSeconds: new Gauge({
    name: 'pisa_queue_oldest_wait_seconds',
    help: 'For how long the next job of each priority has waited; 0 when none waits.',
    labelNames: ['priority'] as const,
    registers,
  }),
  queueStuckJobs: new Gauge({
    name: 'pisa_queue_stuck_jobs',
    help: 'Jobs in process for a minute longer than their time limit.',
    registers,
  }),
  webhooksPending: new Gauge({
    name: 'pisa_webhooks_pending',
    help: 'Webhooks of ended jobs that are not delivered yet.',
    registers,
  }),
  webhooksOldestDueSeconds: new Gauge({
    name: 'pisa_webhooks_oldest_due_seconds',
    help: 'For how long the webhook that is next to be sent, or that waits for a slot of its host for longest, has been due; 0 when none is.',
    registers,
  }),
  keptBytes: new Gauge({
    name: 'pisa_kept_bytes',
    help: 'Bytes of uploads, latents and residuals that are kept for other dials.',
    registers,
  }),
  /** `state` is ready (a device takes jobs) or not_ready. */
  workers: new Gauge({
    name: 'pisa_workers',
    help: 'Live workers, by whether they can take jobs.',
    labelNames: ['state'] as const,
    registers,
  }),
  redisUp: new Gauge({
    name: 'pisa_redis_up',
    help: '1 if Redis answered in time for this scrape, else 0.',
    registers,
  }),
  redisAofEnabled: new Gauge({
    name: 'pisa_redis_aof_enabled',
    help: '1 if Redis writes an append-only file, else 0: then a restart loses the queue.',
    registers,
  }),
  redisAofLastWriteOk: new Gauge({
    name: 'pisa_redis_aof_last_write_ok',
    help: '1 if the last write to the append-only file succeeded, else 0.',
    registers,
  }),
  redisMaxmemoryPolicy: new Gauge({
    name: 'pisa_redis_maxmemory_policy',
    help: '1 for the policy in force; any other than noeviction may drop jobs.',
    labelNames: ['policy'] as const,
    registers,
  }),
  redisMemoryUsedBytes: new Gauge({
    name: 'pisa_redis_memory_used_bytes',
    help: 'Memory that Redis uses.',
    registers,
  }),
  redisMemoryMaxBytes: new Gauge({
    name: 'pisa_redis_memory_max_bytes',
    help: 'The maxmemory setting of Redis; 0 is no limit.',
    registers,
  }),
};

/** Takes out every sample. `reset()` alone leaves a gauge without labels at 0. */
export function forget(gauge: Gauge): void {
  gauge.reset();
  gauge.remove({});
}
for (const gauge of Object.values(queueMetrics)) forget(gauge);
