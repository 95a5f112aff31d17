/**
 * The error catalogue: every fault that a user, a worker or an operator can meet, with a stable code.
 * A code maps to an HTTP status and a title; `AppError` carries it through the pipeline, through Redis
 * (as text, see `toFailure`) and out again as an RFC 9457 problem object.
 */

interface CatalogueEntry {
  /** HTTP status. What the user caused is always 4xx. */
  readonly status: number;
  /** Short, constant, human-readable. The particular case goes into `detail`. */
  readonly title: string;
  /** True when the same request may succeed later: Retry-After says so, and of a job the queue tries again by itself. */
  readonly retryable: boolean;
}

const entry = (status: number, title: string, retryable = false): CatalogueEntry => ({
  status,
  title,
  retryable,
});

export const errorCatalogue = {
  malformed_request: entry(400, 'The request is malformed'),
  missing_image: entry(400, 'The request carries no image'),
  too_many_files: entry(400, 'The request carries more than one image'),
  unauthorized: entry(401, 'The request carries no valid API key'),
  forbidden: entry(403, 'The API key does not allow this'),
  not_found: entry(404, 'No such route'),
  job_not_found: entry(404, 'No such job'),
  method_not_allowed: entry(405, 'The route does not take this method'),
  not_acceptable: entry(406, 'None of the accepted types can be produced'),
  request_timeout: entry(408, 'The request took too long to arrive', true),
  job_not_finished: entry(409, 'The job has not finished', true),
  job_has_no_result: entry(409, 'The job ended without a result'),
  canceled: entry(409, 'The job was canceled'),
  input_expired: entry(410, 'The uploaded image has expired'),
  result_expired: entry(410, 'The result has expired'),
  upload_too_large: entry(413, 'The upload is too large'),
  too_many_pixels: entry(413, 'The image has too many pixels'),
  unsupported_media_type: entry(415, 'Not an image of an allowed type'),
  invalid_parameter: entry(422, 'A parameter is out of range'),
  corrupt_image: entry(422, 'The image is damaged'),
  animated_image: entry(422, 'The image has more than one frame or page'),
  unknown_model: entry(422, 'No such model'),
  url_not_allowed: entry(422, 'The URL may not be reached from here'),
  image_url_failed: entry(422, 'The image could not be fetched from its URL'),
  unsupported_output: entry(422, 'The output format cannot hold this image'),
  idempotency_key_reused: entry(422, 'The Idempotency-Key belongs to another request'),
  image_url_unavailable: entry(424, 'The image cannot be fetched from its URL now', true),
  queue_full: entry(429, 'The queue is full', true),
  rate_limited: entry(429, 'Too many requests in a minute', true),
  too_many_jobs: entry(429, 'Too many jobs that have not ended', true),
  too_much_at_once: entry(429, 'Too much is under way for this client', true),
  headers_too_large: entry(431, 'The request headers are too large'),
  internal: entry(500, 'Something went wrong on our side', true),
  device_lost: entry(500, 'The device process stopped during the job', true),
  model_failed: entry(500, 'The model cannot be used'),
  not_ready: entry(503, 'The service is not ready', true),
  redis_unavailable: entry(503, 'The queue cannot be reached', true),
  storage_unavailable: entry(503, 'The object storage cannot be used', true),
  too_many_fetches: entry(503, 'Too many images are being fetched', true),
  too_many_uploads: entry(503, 'Too many uploads are under way', true),
  shutting_down: entry(503, 'The service is shutting down', true),
  job_timeout: entry(504, 'The job exceeded its time limit'),
  model_too_large: entry(507, 'The model does not fit into the memory for models'),
  out_of_device_memory: entry(507, 'The device ran out of memory', true),
  disk_full: entry(507, 'The worker has no room for temporary files', true),
  // Faults of a start: they end the process with this text and are never sent over HTTP.
  invalid_config: entry(500, 'The configuration is invalid'),
  invalid_bundle: entry(500, 'The model bundle is invalid'),
  bundle_not_added: entry(500, 'The model bundle could not be added'),
  device_unavailable: entry(500, 'The device cannot be used'),
} as const satisfies Record<string, CatalogueEntry>;

export type ErrorCode = keyof typeof errorCatalogue;

export const errorCodes = Object.keys(errorCatalogue) as ErrorCode[];

/** One fault of one request field, as RFC 9457 extension member `errors[]`. */
export interface FieldError {
  /** JSON pointer or `#/query/name` of the offending value. */
  pointer: string;
  detail: string;
  /** The largest value that would have been taken in this case, where it is below what the schema says. */
  maximum?: number;
}

export interface AppErrorOptions {
  /** The underlying error: logged, never sent. */
  cause?: unknown;
  errors?: FieldError[];
  /** Seconds after which to try again; becomes the Retry-After header. */
  retryAfterSeconds?: number;
}

/** An error with a code of the catalogue. `message` is the detail: what happened and what to do. */
export class AppError extends Error {
  readonly code: ErrorCode;
  readonly errors: FieldError[] | undefined;
  readonly retryAfterSeconds: number | undefined;

  constructor(code: ErrorCode, detail: string, options: AppErrorOptions = {}) {
    super(detail, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'AppError';
    this.code = code;
    this.errors = options.errors;
    this.retryAfterSeconds = options.retryAfterSeconds;
  }

  get status(): number {
    return errorCatalogue[this.code].status;
  }

  get retryable(): boolean {
    return errorCatalogue[this.code].retryable;
  }
}

/** An RFC 9457 problem object, as answered by the API and stored in a failed job. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  code: ErrorCode;
  detail: string;
  errors?: FieldError[];
}

/** The problem object of an error. An error that is not ours says nothing of its inside. */
export function toProblem(error: AppError): Problem {
  const { status, title } = errorCatalogue[error.code];
  return {
    type: `urn:pisa-serve:problem:${error.code}`,
    title,
    status,
    code: error.code,
    detail: error.message,
    ...(error.errors ? { errors: error.errors } : {}),
  };
}

/** Any thrown value as an AppError; a foreign one becomes `internal`, with the original as its cause. */
export function toAppError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  return new AppError('internal', 'An unexpected error occurred. The log has the details.', {
    cause: error,
  });
}

/** All that is known of an error, for an operator; a client is told the message alone. */
export function toldInFull({ message, cause }: AppError): string {
  const reason = cause instanceof Error ? cause.message.trim() : '';
  return reason === '' || message.includes(reason) ? message : `${message} The cause: ${reason}`;
}

/** What crosses process borders (IPC, BullMQ's `failedReason`, which keeps only a message). */
export interface Failure {
  code: ErrorCode;
  detail: string;
}

export function toFailure(error: AppError): Failure {
  return { code: error.code, detail: error.message };
}

/**
 * The error that a BullMQ `failedReason` stands for. Text that we did not write (BullMQ's own
 * "job stalled more than allowable limit") is a worker that died with the job.
 */
export function fromFailureText(text: string): AppError {
  try {
    const failure = JSON.parse(text) as Partial<Failure>;
    if (failure.code && failure.code in errorCatalogue) {
      return new AppError(failure.code, failure.detail ?? '');
    }
  } catch {
    // Not JSON: fall through.
  }
  return new AppError(
    'device_lost',
    'The worker that ran this job stopped, and so did every retry. Send the image again; if it fails again, a smaller image may help.',
    { cause: text },
  );
}

/** One wording for a wrong value: "Expected X for Y but received Z". */
export function expected(what: string, name: string, received: unknown): string {
  const shown = typeof received === 'string' ? `"${received}"` : String(received);
  return `Expected ${what} for ${name} but received ${shown.length > 80 ? `${shown.slice(0, 80)}…` : shown}`;
}
