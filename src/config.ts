/**
 * All settings. The only file that reads the environment: parsed once at start, frozen, passed on as an
 * argument. `docs/settings.md` is generated from this schema.
 */
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { AppError, expected } from './errors.ts';
import { allowListFormat, parseAllowEntry } from './net/address-policy.ts';
import { parseSecret, secretFormat } from './webhooks/signature.ts';

interface Setting<T> {
  default: T;
  /** How the default reads in the docs, where it is not the value itself. */
  defaultText?: string;
  /** What a valid value looks like; part of the fault message. */
  format: string;
  description: string;
  /** A secret: a faulty value is not repeated in the fault message. */
  secret?: true;
  /** The value, or undefined when the text does not fit `format`. */
  parse: (text: string) => T | undefined;
}

const integer = (
  min: number,
  max: number,
  value: number,
  description: string,
  defaultText?: string,
): Setting<number> => ({
  default: value,
  ...(defaultText ? { defaultText } : {}),
  format: `a whole number from ${min} to ${max}`,
  description,
  parse: (text) => {
    const parsed = Number(text);
    return Number.isInteger(parsed) && parsed >= min && parsed <= max && text.trim() !== ''
      ? parsed
      : undefined;
  },
});

const text = (
  value: string,
  description: string,
  format = 'text',
  pattern = /^.+$/,
  defaultText?: string,
): Setting<string> => ({
  default: value,
  ...(defaultText ? { defaultText } : {}),
  format,
  description,
  parse: (raw) => (pattern.test(raw) ? raw : undefined),
});

const allowList = (description: string): Setting<string[]> => ({
  default: [],
  defaultText: 'none',
  format: allowListFormat,
  description,
  parse: (raw) => {
    const entries = raw.split(',').map((entry) => entry.trim());
    return entries.every(parseAllowEntry) ? entries : undefined;
  },
});

const list = <T>(setting: Setting<T[]>): Setting<T[]> => setting;

/** Splits at commas; undefined unless every part fits. */
const listOf = <T>(raw: string, parse: (part: string) => T | undefined): T[] | undefined => {
  const parts = raw.split(',').map((part) => parse(part.trim()));
  return parts.every((part) => part !== undefined) ? (parts as T[]) : undefined;
};

const packageRoot = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const bundleNamePattern = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const devicePattern = /^(cpu|webgpu|cuda:\d{1,2})$/;

export const settings = {
  PORT: integer(0, 65535, 8080, 'Port of the HTTP API. 0 picks a free one.'),
  HOST: text('127.0.0.1', 'Address that the HTTP API and the worker probes listen on.'),
  API_KEYS_FILE: text(
    '',
    'File with the digests and limits of API keys, see docs/api-keys.md. Read again when it changes. Unset: no keys are asked for.',
    'a file',
    /^.+$/,
    'unset',
  ),
  OPEN_ACCESS: text(
    'loopback',
    'Where a service that asks for no keys may listen: `loopback`, so that only this machine reaches it, or `anywhere`.',
    'loopback or anywhere',
    /^(loopback|anywhere)$/,
  ),
  REQUESTS_PER_MINUTE_PER_CLIENT: integer(
    0,
    1_000_000,
    0,
    'Requests that make jobs, in a minute, of each key that has no limit of its own, or of each address where no keys are asked for. A sixth of them may come at once. 0: no limit.',
  ),
  CONCURRENT_JOBS_PER_CLIENT: integer(
    0,
    100_000,
    0,
    'Jobs that have not ended, of each key that has no limit of its own, or of each address where no keys are asked for. 0: no limit.',
  ),
  STREAMS_PER_CLIENT: integer(
    1,
    1_000_000,
    500,
    'Results that are on their way to one API key, and streams of events that it has open: so many of each in one API process. Beyond that requests get 429 with Retry-After.',
  ),
  WORKER_PORT: integer(
    0,
    65535,
    8081,
    'Port of the health and metrics endpoints of `pisa-serve worker`. 0 picks a free one.',
  ),
  REDIS_URL: {
    ...text(
      '',
      'Redis of the queue. Unset: `serve` starts a private one on a unix socket.',
      'redis://, rediss:// or unix:// address',
      /^(redis|rediss|unix):\/\/.+$/,
      'unset',
    ),
    // It may hold a password.
    secret: true,
  },
  DATA_DIR: text(
    path.resolve('.data'),
    "Folder of the private Redis's data and of stored images.",
    'a folder',
    /^.+$/,
    '`.data` in the working folder',
  ),
  STORAGE: text(
    '',
    'Where images are kept: `redis`, `folder:/path` on a volume that api and workers share, or `s3://bucket/folder`.',
    '`redis`, `folder:/path` or `s3://bucket/folder`',
    /^(redis|folder:.+|s3:\/\/[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](\/[\w.-]+)*)$/,
    '`folder:DATA_DIR/objects` with the private Redis, else `redis`',
  ),
  S3_ENDPOINT: text(
    '',
    'Address of an S3-compatible server, for `STORAGE=s3://…`. Buckets are then part of the path, not of the host name.',
    'http:// or https:// address',
    /^https?:\/\/[^\s?#]+$/,
    'unset: AWS',
  ),
  S3_REGION: text('us-east-1', 'Region of the bucket.', 'a region', /^[a-z0-9-]{1,40}$/),
  S3_ACCESS_KEY_ID: text(
    '',
    'Who we are at S3. Unset: whatever the AWS SDK finds (AWS_* variables, files, the role of the pod or machine).',
    'an access key id',
    /^\S+$/,
    'unset',
  ),
  S3_SECRET_ACCESS_KEY: {
    ...text('', 'Goes with S3_ACCESS_KEY_ID.', 'a secret access key', /^\S+$/, 'unset'),
    secret: true,
  },
  DEVICES: {
    default: ['cpu'],
    defaultText: 'cpu',
    format: 'a comma-separated list of cpu, webgpu, cuda:N, each once',
    description: 'Devices of the worker; one device process each.',
    parse: (raw: string) => {
      const devices = raw.split(',').map((device) => device.trim());
      const valid = devices.every((device) => devicePattern.test(device));
      return valid && new Set(devices).size === devices.length ? devices : undefined;
    },
  } satisfies Setting<string[]>,
  DEVICE_THREADS: integer(
    1,
    1024,
    availableParallelism(),
    'CPU threads of a `cpu` device.',
    'the number of cores',
  ),
  DEVICE_MAX_RSS_MEGABYTES: integer(
    256,
    1_048_576,
    8192,
    'A device process above this resident size is replaced once its jobs are done.',
  ),
  DEVICE_MEMORY_GIGABYTES: integer(
    0,
    100_000,
    0,
    'Memory of each `cuda` or `webgpu` device, in units of 10⁹ bytes: chooses the tile sizes of bundles that have several (docs/models.md).',
    'what `nvidia-smi` says of a `cuda` device; else not known',
  ),
  DEVICE_START_SECONDS: integer(
    1,
    86_400,
    600,
    'Time that a device process may take to load and warm up its models, also for a job that was stopped meanwhile.',
  ),
  DEVICE_HANG_SECONDS: integer(
    5,
    86_400,
    120,
    'A device process that is silent for longer, or does not let go of a job for as long after it was stopped, is killed and replaced. More than the longest run of one tile.',
  ),
  JOBS_PER_DEVICE: integer(
    1,
    16,
    2,
    'Jobs in flight per device, so that image coding overlaps graph runs.',
  ),
  MODELS_DIR: text(
    path.join(packageRoot, 'models'),
    'Folder with one model bundle per sub-folder.',
    'a folder',
    /^.+$/,
    "the package's `models`",
  ),
  MODEL: text(
    'pisa-tiny',
    'Bundle that serves requests which name no model.',
    'a bundle name',
    bundleNamePattern,
  ),
  PRELOAD_MODELS: list<string>({
    default: [],
    defaultText: 'none',
    format: 'a comma-separated list of bundle names',
    description:
      'Bundles that, besides that of MODEL, are loaded and warmed up before a device is ready. Others are loaded when their first job comes.',
    parse: (raw: string) =>
      listOf(raw, (part) => (bundleNamePattern.test(part) ? part : undefined)),
  }),
  MODEL_MEMORY_MEGABYTES: integer(
    0,
    100_000_000,
    0,
    'Memory that loaded models may take on each device: their weights and the activations of a tile. Where the next one does not fit, the least recently used that no job uses are unloaded. On a `cpu` device DEVICE_MAX_RSS_MEGABYTES must be a third more.',
    "four fifths of the device's memory where that is known, else three quarters of DEVICE_MAX_RSS_MEGABYTES",
  ),
  MAX_UPLOAD_BYTES: integer(1024, 2_147_483_647, 50_000_000, 'Largest accepted upload.'),
  UPLOADS_IN_FLIGHT_MEGABYTES: integer(
    1,
    1_048_576,
    512,
    'Memory of one API process for uploads that arrive, are fetched by URL or are being stored, by what has come of each. One of MAX_UPLOAD_BYTES always fits. An upload that declares more than is left, or comes to more, gets 503 with Retry-After. No API key has more than half of it, or one upload of MAX_UPLOAD_BYTES if that is more: beyond that it gets 429.',
  ),
  IMAGE_URL_ALLOWED_HOSTS: allowList(
    'Hosts from which `image_url` may fetch although they are not public.',
  ),
  IMAGE_URLS_IN_FLIGHT: integer(
    1,
    10_000,
    16,
    'Images that one API process fetches by URL at once; their memory counts in UPLOADS_IN_FLIGHT_MEGABYTES. Beyond that requests get 503 with Retry-After; one API key gets 429 beyond half of them.',
  ),
  IMAGE_URL_TIMEOUT_SECONDS: integer(
    1,
    3600,
    20,
    'Time in which the image behind an `image_url` must have arrived, redirects included.',
  ),
  MAX_INPUT_PIXELS: integer(
    1,
    268_435_456,
    25_000_000,
    'Largest accepted input, width × height: photos of 24 megapixels, at a `scale` whose output MAX_OUTPUT_PIXELS allows.',
  ),
  MAX_OUTPUT_PIXELS: integer(
    1,
    1_073_741_824,
    67_108_864,
    'Largest accepted output, width × height.',
  ),
  MAX_QUEUE_LENGTH: integer(1, 1_000_000, 1000, 'Waiting jobs above which new ones get 429.'),
  MAX_WAIT_SECONDS: integer(
    1,
    3600,
    60,
    'Longest time that a synchronous request (Prefer: wait, Accept: image/*) is held.',
  ),
  REQUEST_TIMEOUT_SECONDS: integer(
    1,
    3600,
    120,
    'Time in which a whole request must have arrived, upload included.',
  ),
  KEEP_ALIVE_SECONDS: integer(
    1,
    7200,
    72,
    'Time for which the API keeps a connection open on which no request is under way. Behind a load balancer or a proxy: longer than that keeps its own to the API (docs/operations.md).',
  ),
  EVENTS_HEARTBEAT_SECONDS: integer(
    1,
    120,
    15,
    'Interval of the sign of life on a stream of events.',
  ),
  JOB_TIMEOUT_SECONDS: integer(
    1,
    86_400,
    900,
    'Time limit of one attempt of a job. A request may ask for less (`timeout`).',
  ),
  RESULT_TTL_SECONDS: integer(
    1,
    31_536_000,
    86_400,
    'Life of a result after the job has finished, unless the request asks for another (`ttl`).',
  ),
  MAX_RESULT_TTL_SECONDS: integer(
    1,
    31_536_000,
    172_800,
    'Longest life of a result that a request may ask for. Records of jobs are kept for a day longer.',
  ),
  KEEP_MAX_MEGABYTES: integer(
    0,
    1_048_576,
    512,
    'Size of all uploads, latents and residuals that are kept as long as results, so that other dials cost less (`adjust`, `sweep`, `heatmap`). Over it the least recently used go first. 0: nothing is kept.',
  ),
  KEEP_MAX_JOB_MEGABYTES: integer(
    0,
    1_048_576,
    64,
    'Largest latents and residuals (together) that one image keeps. Of a larger one only the upload is kept, and they are computed again.',
  ),
  RESULT_CACHE: text(
    'on',
    'on: a request for what has been made already (same image, parameters and model bundle) is answered from the stored result.',
    'on or off',
    /^(on|off)$/,
  ),
  REUSED_MAX_MEGABYTES: integer(
    1,
    1_048_576,
    512,
    'Size of all results that were copied from stored ones (RESULT_CACHE) and have not expired, and of what Redis keeps of their jobs: 2 kB, or 6 kB and more with a webhook. No API key has more than half of it. Beyond that a request is not answered from a stored result: it is a job in the queue.',
  ),
  IDEMPOTENCY_KEY_SECONDS: integer(
    60,
    31_536_000,
    86_400,
    'Time in which a request with the same `Idempotency-Key` gets the same job.',
  ),
  PUBLIC_URL: text(
    '',
    'Address of the API as clients reach it: makes the URLs in webhooks absolute.',
    'http:// or https:// address',
    /^https?:\/\/[^\s?#]+$/,
    'unset: they stay relative, as in the API',
  ),
  WEBHOOK_SECRET: list<string>({
    default: [],
    defaultText: 'unset: `webhook=` is refused',
    format: secretFormat,
    description:
      'Signs webhooks. To change it, put the new secret before the old one until every receiver knows the new one.',
    secret: true,
    parse: (raw: string) => listOf(raw, (part) => (parseSecret(part) ? part : undefined)),
  }),
  WEBHOOK_SIGN_WITH: text(
    'client',
    'Where API keys are asked for. client: events are signed with the secret of their client (`keys webhook-secret`). both: with WEBHOOK_SECRET itself too, until every receiver knows the secret of its client.',
    'client or both',
    /^(client|both)$/,
  ),
  WEBHOOK_ALLOWED_HOSTS: allowList(
    'Hosts that webhooks may reach although they are not public, or although they take no TLS.',
  ),
  WEBHOOK_TIMEOUT_SECONDS: integer(1, 300, 15, 'Time in which a receiver must have answered.'),
  WEBHOOK_RETRY_SECONDS: list<number>({
    default: [5, 30, 120, 600, 1800, 3600, 7200, 14_400, 21_600, 32_400],
    format: 'a comma-separated list of 1 to 100 numbers from 0 to 86400',
    description:
      'Waits before the second, third, … attempt to deliver a webhook; each is up to a tenth longer.',
    parse: (raw: string) => {
      const waits = listOf(raw, (part) =>
        /^\d{1,5}(\.\d+)?$/.test(part) && Number(part) <= 86_400 ? Number(part) : undefined,
      );
      return waits && waits.length <= 100 ? waits : undefined;
    },
  }),
  WEBHOOKS_IN_FLIGHT: integer(1, 10_000, 64, 'Webhooks that one API process delivers at once.'),
  WEBHOOKS_IN_FLIGHT_PER_HOST: integer(
    1,
    10_000,
    8,
    'Of these, how many to one host, whatever its ports: a slow one leaves room for the others. With API keys, each client has so many, and a quarter of WEBHOOKS_IN_FLIGHT at the most.',
  ),
  SWEEP_MAX_CELLS: integer(1, 1024, 25, 'Most cells of a contact sheet (`sweep`): pix × sem.'),
  SHUTDOWN_DELAY_SECONDS: integer(
    0,
    3600,
    0,
    'Time for which the API serves on after SIGTERM, while `/readyz` says no and every answer ends its connection. Behind a load balancer: longer than it takes to notice.',
  ),
  SHUTDOWN_GRACE_SECONDS: integer(
    1,
    86_400,
    25,
    'Time that SIGTERM leaves running jobs to finish before they go back to the queue, and uploads and downloads before they are cut off.',
  ),
  KUBERNETES_POD: text(
    '',
    'Name of the pod that this worker runs in. Set: it annotates the pod with the number of its jobs (pod-deletion-cost), so that Kubernetes ends idle workers first.',
    'the name of a pod',
    /^[a-z0-9][a-z0-9.-]{0,252}$/,
    'unset',
  ),
  KUBERNETES_API_URL: text(
    'https://kubernetes.default.svc',
    'Address of the Kubernetes API server, for KUBERNETES_POD.',
    'https:// address',
    /^https:\/\/[^\s?#]+$/,
  ),
  LOG_LEVEL: text(
    'info',
    'Least severe level that is logged.',
    'one of trace, debug, info, warn, error, fatal, silent',
    /^(trace|debug|info|warn|error|fatal|silent)$/,
  ),
} satisfies Record<
  string,
  Setting<number> | Setting<string> | Setting<string[]> | Setting<number[]>
>;

type Settings = typeof settings;
type SettingName = keyof Settings;

/** The parsed settings, under their environment names. */
export type Config = {
  readonly [Name in SettingName]: Settings[Name]['default'] extends readonly string[]
    ? readonly string[]
    : Settings[Name]['default'];
};

/**
 * @throws invalid_config naming every faulty setting at once, with its expected format
 */
export function loadConfig(env: Record<string, string | undefined> = process.env): Config {
  const faults: string[] = [];
  const values = Object.entries(settings).map(([name, setting]) => {
    const raw = env[name];
    if (raw === undefined || raw === '') return [name, setting.default];
    const value = (setting as Setting<unknown>).parse(raw);
    if (value === undefined) {
      const shown = 'secret' in setting ? '(a secret, not shown)' : raw;
      faults.push(expected(setting.format, name, shown));
    }
    return [name, value];
  });
  if (faults.length > 0) {
    throw new AppError('invalid_config', `${faults.join('.\n')}.`);
  }
  return Object.freeze(Object.fromEntries(values)) as Config;
}

/**
 * The environment for a device process: ours without our settings, some of which are secrets. It gets what it
 * needs of them in a message.
 */
export function childEnvironment(
  env: Record<string, string | undefined> = process.env,
): Record<string, string | undefined> {
  const isOurs = (name: string) => name in settings || name.startsWith('OTEL_');
  return Object.fromEntries(Object.entries(env).filter(([name]) => !isOurs(name)));
}

const otlpProtocols = ['http/protobuf', 'http/json'] as const;
export type OtlpProtocol = (typeof otlpProtocols)[number];

/**
 * OpenTelemetry has standard variables of its own, which its SDK reads. Here only: are there traces at all?
 * @returns undefined unless a collector is named (or `OTEL_TRACES_EXPORTER=otlp`: the one on this machine)
 * @throws invalid_config for a protocol that we do not speak
 */
export function otlpProtocol(
  env: Record<string, string | undefined> = process.env,
): OtlpProtocol | undefined {
  const exporter = env.OTEL_TRACES_EXPORTER?.trim() ?? '';
  const endpoint = env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT || env.OTEL_EXPORTER_OTLP_ENDPOINT;
  const isOff = env.OTEL_SDK_DISABLED?.trim().toLowerCase() === 'true' || exporter === 'none';
  if (isOff || (exporter !== 'otlp' && !endpoint)) return undefined;
  const named = env.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL || env.OTEL_EXPORTER_OTLP_PROTOCOL;
  const protocol = otlpProtocols.find((known) => known === (named || 'http/protobuf'));
  if (protocol) return protocol;
  throw new AppError(
    'invalid_config',
    `${expected(otlpProtocols.join(' or '), 'OTEL_EXPORTER_OTLP_PROTOCOL', named)}.`,
  );
}
