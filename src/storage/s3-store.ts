/**
 * Images in a bucket of S3 or of anything that speaks its protocol. S3 knows no time to live in seconds (a lifecycle
 * rule counts days), so each object carries its expiry, which every read obeys, and Redis holds an index of
 * expiries, by which the objects are deleted. Should Redis lose the index, a lifecycle rule cleans up.
 */
import { PassThrough, pipeline, type Readable } from 'node:stream';
import type { GetObjectCommandOutput, S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import type { Redis } from 'ioredis';
import { AppError } from '../errors.ts';
import type { RedisRole } from '../jobs/redis.ts';
import { checkKey, type ObjectStore } from './object-store.ts';

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

export interface S3StoreOptions {
  /** For the index of expiries. A connection of its own: `close` ends it. */
  redis: Redis;
  /** `producer`: somebody waits for the answer; `consumer`: S3 may be away for a minute. */
  role: RedisRole;
  /** Delete expired objects every minute. One process that does is enough; more do no harm. */
  sweep: boolean;
  /** Told when a sweep fails, for the log. */
  onError?: (error: unknown) => void;
}

/** Member = storage key, score = expiry in epoch ms. */
const expiriesKey = 'pisa:s3:expires';
const expiryField = 'expires-at';
const sweepIntervalMs = 60_000;
const sweepBatch = 500;
/**
 * Objects that a sweep asks for and deletes at a time, one by one: for DeleteObjects many servers besides AWS want a
 * Content-MD5, which the SDK no longer sends (aws/aws-sdk-js-v3#6920).
 */
const sweptAtOnce = 16;
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

export class S3Store implements ObjectStore {
  readonly #location: S3Location;
  readonly #options: S3StoreOptions;
  readonly #timer: NodeJS.Timeout | undefined;
  #opened: Promise<Opened> | undefined;
  #sweeping: Promise<void> | undefined;

  constructor(location: S3Location, options: S3StoreOptions) {
    this.#location = location;
    this.#options = options;
    if (options.sweep) {
      const run = () => this.sweep().catch(options.onError ?? (() => {}));
      void run();
      this.#timer = setInterval(run, sweepIntervalMs).unref();
    }
  }

  async put(key: string, bytes: Uint8Array, ttlSeconds: number): Promise<void> {
    const at = this.#address(key);
    const expiresAt = await this.#index(key, ttlSeconds);
    await this.#run(({ PutObjectCommand }, client, abortSignal) =>
      client.send(
        new PutObjectCommand({
          ...at,
          Body: bytes,
          ContentLength: bytes.byteLength,
          ContentType: 'application/octet-stream',
          Metadata: { [expiryField]: expiresAt },
        }),
        { abortSignal },
      ),
    );
  }

  async copy(from: string, to: string, ttlSeconds: number): Promise<boolean> {
    const [source, at] = [this.#address(from), this.#address(to)];
    if (!(await this.has(from))) return false;
    const expiresAt = await this.#index(to, ttlSeconds);
    const copied = await this.#run(({ CopyObjectCommand }, client, abortSignal) =>
      orMissing(
        client.send(
          new CopyObjectCommand({
            ...at,
            CopySource: encodeURI(`${source.Bucket}/${source.Key}`),
            MetadataDirective: 'REPLACE',
            ContentType: 'application/octet-stream',
            Metadata: { [expiryField]: expiresAt },
          }),
          { abortSignal },
        ),
      ),
    );
    return copied !== undefined;
  }

  /** The expiry is part of the object, which S3 lets nobody change: a copy takes its place. */
  expire(key: string, ttlSeconds: number): Promise<boolean> {
    return this.copy(key, key, ttlSeconds);
  }

  async get(key: string): Promise<Buffer | undefined> {
    const at = this.#address(key);
    return this.#run(async ({ GetObjectCommand }, client, abortSignal) => {
      const answer = await orMissing(client.send(new GetObjectCommand(at), { abortSignal }));
      const bytes = answer && (await answer.Body?.transformToByteArray());
      if (!answer || !bytes || !isAlive(answer)) return undefined;
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    });
  }

  async stream(key: string): Promise<Readable | undefined> {
    const at = this.#address(key);
    const body = await this.#run(async ({ GetObjectCommand }, client, abortSignal) => {
      const answer = await orMissing(client.send(new GetObjectCommand(at), { abortSignal }));
      const found = answer?.Body as Readable | undefined;
      if (answer && isAlive(answer)) return found;
      found?.destroy();
      return undefined;
    }, 'streams');
    return body && inTime(body, patience[this.#options.role].limitMs);
  }

  async has(key: string): Promise<boolean> {
    const at = this.#address(key);
    return this.#run(async ({ HeadObjectCommand }, client, abortSignal) => {
      const answer = await orMissing(client.send(new HeadObjectCommand(at), { abortSignal }));
      return answer !== undefined && isAlive(answer);
    });
  }

  async delete(key: string): Promise<void> {
    await this.#deleteObject(key);
    await this.#options.redis.zrem(expiriesKey, key);
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#options.redis.disconnect();
    const opened = await this.#opened?.catch(() => undefined);
    opened?.client.destroy();
    opened?.streams.destroy();
  }

  /** Deletes what has expired. One that is asked for while another runs is that one. */
  sweep(): Promise<void> {
    this.#sweeping ??= this.#sweepAll().finally(() => {
      this.#sweeping = undefined;
    });
    return this.#sweeping;
  }

  async #sweepAll(): Promise<void> {
    const { redis } = this.#options;
    for (;;) {
      const now = Date.now();
      const due = await redis.zrangebyscore(expiriesKey, '-inf', now, 'LIMIT', 0, sweepBatch);
      for (let i = 0; i < due.length; i += sweptAtOnce) {
        const some = due.slice(i, i + sweptAtOnce).map((key) => this.#sweepObject(key, now));
        const failed = (await Promise.allSettled(some)).find(({ status }) => status === 'rejected');
        if (failed?.status === 'rejected') throw failed.reason;
      }
      if (due.length < sweepBatch) return;
    }
  }

  async #sweepObject(key: string, now: number): Promise<void> {
    const { redis } = this.#options;
    // Written again since: the entry that this made is not due.
    if (await this.has(key)) return;
    await this.#deleteObject(key);
    const expiry = await redis.zscore(expiriesKey, key);
    if (expiry !== null && Number(expiry) <= now) await redis.zrem(expiriesKey, key);
  }

  async #deleteObject(key: string): Promise<void> {
    const at = this.#address(key);
    await this.#run(({ DeleteObjectCommand }, client, abortSignal) =>
      orMissing(client.send(new DeleteObjectCommand(at), { abortSignal })),
    );
  }

  /** First of all: an object without an entry would stay. @returns when it expires, in epoch ms */
  async #index(key: string, ttlSeconds: number): Promise<string> {
    const expiresAt = Math.ceil(Date.now() + ttlSeconds * 1000);
    await this.#options.redis.zadd(expiriesKey, expiresAt, key);
    return String(expiresAt);
  }

  #address(key: string): { Bucket: string; Key: string } {
    const { bucket, prefix } = this.#location;
    return { Bucket: bucket, Key: prefix === '' ? checkKey(key) : `${prefix}/${checkKey(key)}` };
  }

  /** @throws storage_unavailable */
  async #run<T>(operation: Operation<T>, by: 'client' | 'streams' = 'client'): Promise<T> {
    // Not AbortSignal.timeout: it would cut what is streamed after the operation.
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(), patience[this.#options.role].limitMs);
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
      maxAttempts: patience[this.#options.role].maxAttempts,
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

const isAlive = ({ Metadata }: Pick<GetObjectCommandOutput, 'Metadata'>): boolean =>
  Number(Metadata?.[expiryField] ?? 0) > Date.now();

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
async function orMissing<T>(operation: Promise<T>): Promise<T | undefined> {
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
