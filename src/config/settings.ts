/** The table of settings: every environment variable that is ours. `make docs` makes `docs/settings.md` of it. */
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { allowListFormat, parseAllowEntry } from '../net/address-policy.ts';
import { packageRoot } from '../package-info.ts';
import { parseSecret, secretFormat } from '../webhooks/signature.ts';
import { choice, integer, list, type Setting, text } from './setting-kinds.ts';

const bundleNamePattern = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const devicePattern = /^(cpu|webgpu|cuda:\d{1,2})$/;

const allowList = (description: string): Setting<string[]> =>
  list<string>({
    default: [],
    defaultText: 'none',
    format: allowListFormat,
    parsePart: (part) => (parseAllowEntry(part) ? part : undefined),
    description,
  });

export const settings = {
  PORT: integer(0, 65535, 8080, 'Port of the HTTP API. 0 picks a free one.'),
  HOST: text({
    default: '127.0.0.1',
    format: 'text',
    description: 'Address that the HTTP API and the worker probes listen on.',
  }),
  API_KEYS_FILE: text({
    default: '',
    defaultText: 'unset',
    format: 'a file',
    description:
      'File with the digests and limits of API keys, see docs/api-keys.md. Read again when it changes. Unset: no keys are asked for.',
  }),
  OPEN_ACCESS: choice(
    ['loopback', 'anywhere'],
    'loopback',
    'Where a service that asks for no keys may listen: `loopback`, so that only this machine reaches it, or `anywhere`.',
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
  REDIS_URL: text({
    default: '',
    defaultText: 'unset',
    format: 'redis://, rediss:// or unix:// address',
    pattern: /^(redis|rediss|unix):\/\/.+$/,
    description: 'Redis of the queue. Unset: `serve` starts a private one on a unix socket.',
    // It may hold a password.
    secret: true,
  }),
  DATA_DIR: text({
    default: path.resolve('.data'),
    defaultText: '`.data` in the working folder',
    format: 'a folder',
    description: "Folder of the private Redis's data and of stored images.",
  }),
  STORAGE: text({
    default: '',
    defaultText: '`folder:DATA_DIR/objects` with the private Redis, else `redis`',
    format: '`redis`, `folder:/path` or `s3://bucket/folder`',
    pattern: /^(redis|folder:.+|s3:\/\/[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](\/[\w.-]+)*)$/,
    description:
      'Where images are kept: `redis`, `folder:/path` on a volume that api and workers share, or `s3://bucket/folder`.',
  }),
  S3_ENDPOINT: text({
    default: '',
    defaultText: 'unset: AWS',
    format: 'http:// or https:// address',
    pattern: /^https?:\/\/[^\s?#]+$/,
    description:
      'Address of an S3-compatible server, for `STORAGE=s3://…`. Buckets are then part of the path, not of the host name.',
  }),
  S3_REGION: text({
    default: 'us-east-1',
    format: 'a region',
    pattern: /^[a-z0-9-]{1,40}$/,
    description: 'Region of the bucket.',
  }),
  S3_ACCESS_KEY_ID: text({
    default: '',
    defaultText: 'unset',
    format: 'an access key id',
    pattern: /^\S+$/,
    description:
      'Who we are at S3. Unset: whatever the AWS SDK finds (AWS_* variables, files, the role of the pod or machine).',
  }),
  S3_SECRET_ACCESS_KEY: text({
    default: '',
    defaultText: 'unset',
    format: 'a secret access key',
    pattern: /^\S+$/,
    description: 'Goes with S3_ACCESS_KEY_ID.',
    secret: true,
  }),
  DEVICES: list({
    default: ['cpu'],
    defaultText: 'cpu',
    format: 'a comma-separated list of cpu, webgpu, cuda:N, each once',
    parsePart: (part) => (devicePattern.test(part) ? part : undefined),
    fits: (devices) => new Set(devices).size === devices.length,
    description: 'Devices of the worker; one device process each.',
  }),
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
    'Time that a device process may take to load and warm up its models, also for a job that was stopped meanwhile. A worker that has had no ready device for as long, and can start none, ends.',
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
  MODELS_DIR: text({
    default: path.join(packageRoot, 'models'),
    defaultText: "the package's `models`",
    format: 'a folder',
    description: 'Folder with one model bundle per sub-folder.',
  }),
  MODEL: text({
    default: 'pisa-tiny',
    format: 'a bundle name',
    pattern: bundleNamePattern,
    description: 'Bundle that serves requests which name no model.',
  }),
  PRELOAD_MODELS: list<string>({
    default: [],
    defaultText: 'none',
    format: 'a comma-separated list of bundle names',
    parsePart: (part) => (bundleNamePattern.test(part) ? part : undefined),
    description:
      'Bundles that, besides that of MODEL, are loaded and warmed up before a device is ready. Others are loaded when their first job comes.',
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
  MAX_RESTORED_PIXELS: integer(
    0,
    4_294_967_296,
    0,
    'What the model may work on for one photo whose `scale` is below that of its model, width × height: 16 for each pixel of the photo (scale 4), so that the default is enough for 12.5 megapixels. Larger photos are worked on at the largest scale that fits (docs/pipeline.md). Less than MAX_OUTPUT_PIXELS counts as that.',
    'three times MAX_OUTPUT_PIXELS',
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
    1800,
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
    'Largest latents and residuals (together) that one image keeps. Of a larger one, and of one that is restored in sections, only the upload is kept, and they are computed again.',
  ),
  RESULT_CACHE: choice(
    ['on', 'off'],
    'on',
    'on: a request for what has been made already (same image, parameters and model bundle) is answered from the stored result.',
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
  PUBLIC_URL: text({
    default: '',
    defaultText: 'unset: they stay relative, as in the API',
    format: 'http:// or https:// address',
    pattern: /^https?:\/\/[^\s?#]+$/,
    description: 'Address of the API as clients reach it: makes the URLs in webhooks absolute.',
  }),
  WEBHOOK_SECRET: list<string>({
    default: [],
    defaultText: 'unset: `webhook=` is refused',
    format: secretFormat,
    parsePart: (part) => (parseSecret(part) ? part : undefined),
    description:
      'Signs webhooks. To change it, put the new secret before the old one until every receiver knows the new one.',
    secret: true,
  }),
  WEBHOOK_SIGN_WITH: choice(
    ['client', 'both'],
    'client',
    'Where API keys are asked for. client: events are signed with the secret of their client (`keys webhook-secret`). both: with WEBHOOK_SECRET itself too, until every receiver knows the secret of its client.',
  ),
  WEBHOOK_ALLOWED_HOSTS: allowList(
    'Hosts that webhooks may reach although they are not public, or although they take no TLS.',
  ),
  WEBHOOK_TIMEOUT_SECONDS: integer(1, 300, 15, 'Time in which a receiver must have answered.'),
  WEBHOOK_RETRY_SECONDS: list({
    default: [5, 30, 120, 600, 1800, 3600, 7200, 14_400, 21_600, 32_400],
    format: 'a comma-separated list of 1 to 100 numbers from 0 to 86400',
    parsePart: (part) =>
      /^\d{1,5}(\.\d+)?$/.test(part) && Number(part) <= 86_400 ? Number(part) : undefined,
    fits: (waits) => waits.length <= 100,
    description:
      'Waits before the second, third, … attempt to deliver a webhook; each is up to a tenth longer.',
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
  KUBERNETES_POD: text({
    default: '',
    defaultText: 'unset',
    format: 'the name of a pod',
    pattern: /^[a-z0-9][a-z0-9.-]{0,252}$/,
    description:
      'Name of the pod that this worker runs in. Set: it annotates the pod with the number of its jobs (pod-deletion-cost), so that Kubernetes ends idle workers first.',
  }),
  KUBERNETES_API_URL: text({
    default: 'https://kubernetes.default.svc',
    format: 'https:// address',
    pattern: /^https:\/\/[^\s?#]+$/,
    description: 'Address of the Kubernetes API server, for KUBERNETES_POD.',
  }),
  LOG_LEVEL: choice(
    ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    'info',
    'Least severe level that is logged.',
  ),
} satisfies Record<
  string,
  Setting<number> | Setting<string> | Setting<string[]> | Setting<number[]>
>;
