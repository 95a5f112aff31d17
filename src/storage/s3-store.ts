/**
 * Images in a bucket of S3 or of anything that speaks its protocol. S3 knows no time to live in seconds (a lifecycle
 * rule counts days), so each object carries its expiry, which every read obeys, and Redis holds an index of
 * expiries, by which the objects are deleted. Should Redis lose the index, a lifecycle rule cleans up.
 */
import type { Readable } from 'node:stream';
import type { GetObjectCommandOutput } from '@aws-sdk/client-s3';
import type { Redis } from 'ioredis';
import type { RedisRole } from '../jobs/redis.ts';
import { checkKey, type ObjectStore } from './object-store.ts';
import { orMissing, S3Clients, type S3Location } from './s3-clients.ts';
import { S3Expiries } from './s3-expiries.ts';

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

const expiryField = 'expires-at';
const sweepIntervalMs = 60_000;

export class S3Store implements ObjectStore {
  readonly #location: Pick<S3Location, 'bucket' | 'prefix'>;
  readonly #clients: S3Clients;
  readonly #redis: Redis;
  readonly #expiries: S3Expiries;
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(location: S3Location, { redis, role, sweep, onError = () => {} }: S3StoreOptions) {
    this.#location = location;
    this.#clients = new S3Clients(location, role);
    this.#redis = redis;
    this.#expiries = new S3Expiries(redis, {
      has: (key) => this.has(key),
      delete: (key) => this.#deleteObject(key),
    });
    if (sweep) {
      const run = () => this.sweep().catch(onError);
      void run();
      this.#timer = setInterval(run, sweepIntervalMs).unref();
    }
  }

  async put(key: string, bytes: Uint8Array, ttlSeconds: number): Promise<void> {
    const at = this.#address(key);
    const expiresAt = await this.#expiries.note(key, ttlSeconds);
    await this.#clients.run(({ PutObjectCommand }, client, abortSignal) =>
      client.send(
        new PutObjectCommand({
          ...at,
          Body: bytes,
          ContentLength: bytes.byteLength,
          ContentType: 'application/octet-stream',
          Metadata: { [expiryField]: String(expiresAt) },
        }),
        { abortSignal },
      ),
    );
  }

  async copy(from: string, to: string, ttlSeconds: number): Promise<boolean> {
    const [source, at] = [this.#address(from), this.#address(to)];
    if (!(await this.has(from))) return false;
    const expiresAt = await this.#expiries.note(to, ttlSeconds);
    const copied = await this.#clients.run(({ CopyObjectCommand }, client, abortSignal) =>
      orMissing(
        client.send(
          new CopyObjectCommand({
            ...at,
            CopySource: encodeURI(`${source.Bucket}/${source.Key}`),
            MetadataDirective: 'REPLACE',
            ContentType: 'application/octet-stream',
            Metadata: { [expiryField]: String(expiresAt) },
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
    return this.#clients.run(async ({ GetObjectCommand }, client, abortSignal) => {
      const answer = await orMissing(client.send(new GetObjectCommand(at), { abortSignal }));
      const bytes = answer && (await answer.Body?.transformToByteArray());
      if (!answer || !bytes || !isAlive(answer)) return undefined;
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    });
  }

  async stream(key: string): Promise<Readable | undefined> {
    const at = this.#address(key);
    const body = await this.#clients.run(async ({ GetObjectCommand }, client, abortSignal) => {
      const answer = await orMissing(client.send(new GetObjectCommand(at), { abortSignal }));
      const found = answer?.Body as Readable | undefined;
      if (answer && isAlive(answer)) return found;
      found?.destroy();
      return undefined;
    }, 'streams');
    return body && this.#clients.passOn(body);
  }

  async has(key: string): Promise<boolean> {
    const at = this.#address(key);
    return this.#clients.run(async ({ HeadObjectCommand }, client, abortSignal) => {
      const answer = await orMissing(client.send(new HeadObjectCommand(at), { abortSignal }));
      return answer !== undefined && isAlive(answer);
    });
  }

  async delete(key: string): Promise<void> {
    await this.#deleteObject(key);
    await this.#expiries.forget(key);
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#redis.disconnect();
    await this.#clients.close();
  }

  /** Deletes what has expired. One that is asked for while another runs is that one. */
  sweep(): Promise<void> {
    return this.#expiries.sweep();
  }

  async #deleteObject(key: string): Promise<void> {
    const at = this.#address(key);
    await this.#clients.run(({ DeleteObjectCommand }, client, abortSignal) =>
      orMissing(client.send(new DeleteObjectCommand(at), { abortSignal })),
    );
  }

  #address(key: string): { Bucket: string; Key: string } {
    const { bucket, prefix } = this.#location;
    return { Bucket: bucket, Key: prefix === '' ? checkKey(key) : `${prefix}/${checkKey(key)}` };
  }
}

const isAlive = ({ Metadata }: Pick<GetObjectCommandOutput, 'Metadata'>): boolean =>
  Number(Metadata?.[expiryField] ?? 0) > Date.now();
