/**
 * An S3 server for one test file: moto's as a process of its own (`make tools` installs it), or the one at
 * S3_TEST_ENDPOINT.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  CreateBucketCommand,
  DeleteObjectCommand,
  ListObjectsV2Command,
  S3Client,
} from '@aws-sdk/client-s3';
import type { S3Location } from '../../src/storage/s3-clients.ts';
import { root } from './build.ts';
import { freePort } from './processes.ts';

export interface TestS3 {
  readonly location: S3Location;
  /** All keys of the bucket. */
  keys(): Promise<string[]>;
  empty(): Promise<void>;
  /** Ends the server as a crash does; objects stay. */
  kill(): Promise<void>;
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** True when the tests run against a server that they did not start, and so cannot kill. */
export const isForeignS3 = process.env.S3_TEST_ENDPOINT !== undefined;

const program = path.join(root, '.venv-tools/bin/moto_server');
/** False: the tests of it are skipped, and say so. */
export const hasS3 = isForeignS3 || existsSync(program);

export async function startS3(): Promise<TestS3> {
  const port = await freePort();
  const location = {
    bucket: 'pisa-test',
    prefix: 'images',
    region: 'us-east-1',
    endpoint: process.env.S3_TEST_ENDPOINT ?? `http://127.0.0.1:${port}`,
    // moto takes any.
    credentials: {
      accessKeyId: process.env.S3_TEST_ACCESS_KEY_ID ?? 'test',
      secretAccessKey: process.env.S3_TEST_SECRET_ACCESS_KEY ?? 'test',
    },
  } satisfies S3Location;
  const { bucket: Bucket, region, endpoint, credentials } = location;
  const client = new S3Client({ region, endpoint, credentials, forcePathStyle: true });
  let server: ChildProcess | undefined;
  const restart = async () => {
    if (!isForeignS3) server = await spawnServer(port);
    // What moto had in memory has gone with it.
    await client.send(new CreateBucketCommand({ Bucket })).catch((error: Error) => {
      if (!error.name.startsWith('BucketAlready')) throw error;
    });
  };
  const kill = async () => {
    if (!server || server.exitCode !== null || server.signalCode !== null) return;
    const exited = once(server, 'exit');
    server.kill('SIGKILL');
    await exited;
  };
  await restart();
  const keys = async () => {
    const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket }));
    return Contents.map(({ Key = '' }) => Key).sort();
  };
  const empty = async () => {
    for (const Key of await keys()) await client.send(new DeleteObjectCommand({ Bucket, Key }));
  };
  return {
    location,
    keys,
    empty,
    kill,
    restart,
    stop: async () => {
      if (isForeignS3) await empty();
      client.destroy();
      await kill();
    },
  };
}

async function spawnServer(port: number): Promise<ChildProcess> {
  const server = spawn(program, ['-H', '127.0.0.1', '-p', String(port)], { stdio: 'ignore' });
  // A test run that is killed must not leave its server behind.
  const endWithUs = () => server.kill('SIGKILL');
  process.once('exit', endWithUs);
  server.once('exit', () => process.off('exit', endWithUs));
  while (server.exitCode === null) {
    const answer = await fetch(`http://127.0.0.1:${port}/`).catch(() => undefined);
    if (answer?.ok) return server;
    await delay(50);
  }
  throw new Error('moto_server ended at its start.');
}
