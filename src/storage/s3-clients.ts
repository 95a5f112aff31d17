/** How S3 is reached: the clients of the SDK, how long they are waited for, and what their faults mean. */
import { PassThrough, pipeline, type Readable } from 'node:stream';
import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import { AppError } from '../errors.ts';
import type { RedisRole } from '../jobs/redis.ts';

/** Where the bucket is and who we are there; plain data. */
export interface S3Location {
  bucket: string;
  /** Folder in the bucket, without slashes at its ends; may be empty. */
  prefix: string;
  region: string;
  /** Absent: AWS. */
  endpoint?: string;
  /** Absent: whatever the AWS SDK finds (AWS_* variables, files, the role of the pod or machine). */
  credentials?: { accessKeyId: string; secretAccessKey: string };
}

/**
 * Attempts (exponential backoff with jitter, by the SDK) and the limit of one operation with all of them; also of each
 * piece of a stream.
 */
const patience = {
  producer: { maxAttempts: 3, limitMs: 15_000 },
  consumer: { maxAttempts: 12, limitMs: 120_000 },
};
const connectLimitMs = 5000;
/**
 * Of each client. A stream holds one for as long as its reader reads: so streams have a client of their own, and however
 * many read slowly, all else goes on.
 */
const maxSockets = 1000;
const retryAfterSeconds = 5;

type Sdk = typeof import('@aws-sdk/client-s3');
interface Opened {
  sdk: Sdk;
  /** Shares no socket with `streams`. */
  client: S3Client;
  streams: S3Client;
}
/** What an operation needs: the SDK's commands, and a way to send one. */
type Operation<T> = (sdk: Sdk, client: S3Client, abortSignal: AbortSignal) => Promise<T>;

export class S3Clients {
  readonly #location: S3Location;
  readonly #role: RedisRole;
  #opened: Promise<Opened> | undefined;

  /** @param role `producer`: somebody waits for the answer; `consumer`: S3 may be away for a minute */
  constructor(location: S3Location, role: RedisRole) {
    this.#location = location;
    this.#role = role;
  }

  /** @throws storage_unavailable */
  async run<T>(operation: Operation<T>, by: 'client' | 'streams' = 'client'): Promise<T> {
    // Not AbortSignal.timeout: it would cut what is streamed after the operation.
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(), patience[this.#role].limitMs);
    try {
      this.#opened ??= this.#open();
      const opened = await this.#opened;
      return await operation(opened.sdk, opened[by], limit.signal);
    } catch (cause) {
      throw unavailable(cause);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Passes the body of an object on, see `inTime`. */
  passOn(body: Readable): Readable {
    return inTime(body, patience[this.#role].limitMs);
  }

  async close(): Promise<void> {
    const opened = await this.#opened?.catch(() => undefined);
    opened?.client.destroy();
    opened?.streams.destroy();
  }

  /** At first use: who keeps images elsewhere never loads the SDK. */
  async #open(): Promise<Opened> {
    const sdk = await import('@aws-sdk/client-s3');
    const client = () => new sdk.S3Client(this.#clientConfig());
    return { sdk, client: client(), streams: client() };
  }

  #clientConfig(): S3ClientConfig {
    const { region, endpoint, credentials } = this.#location;
    return {
      region,
      maxAttempts: patience[this.#role].maxAttempts,
      requestHandler: {
        connectionTimeout: connectLimitMs,
        httpAgent: { maxSockets },
        httpsAgent: { maxSockets },
      },
      // The newer checksums of AWS are unknown to many other servers.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      // Servers of one's own seldom have a DNS name for each bucket.
      ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
      ...(credentials ? { credentials } : {}),
    };
  }
}

const unavailable = (cause: unknown): AppError =>
  new AppError(
    'storage_unavailable',
    'The object storage cannot be reached at the moment, or refuses. Try again in a few seconds.',
    { cause, retryAfterSeconds },
  );

/**
 * Passes a body on. Its connection is given up as soon as the reader leaves, or when S3 sends nothing for so long that
 * the reader waits for. It fails with storage_unavailable.
 */
function inTime(body: Readable, limitMs: number): Readable {
  const passed = new PassThrough({
    destroy: (error, done) => done(error && unavailable(error)),
  });
  const watch = setTimeout(() => {
    // A reader that takes its time is no fault of S3.
    if (passed.writableNeedDrain) watch.refresh();
    else body.destroy(new Error('S3 stopped sending.'));
  }, limitMs);
  body.on('data', () => watch.refresh());
  pipeline(body, passed, () => clearTimeout(watch));
  return passed;
}

/** A bucket that is missing is a fault, an object that is missing is an answer. */
export async function orMissing<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    // HEAD has no body that could name the error.
    if (error instanceof Error && (error.name === 'NoSuchKey' || error.name === 'NotFound')) {
      return undefined;
    }
    throw error;
  }
}
