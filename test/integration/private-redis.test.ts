/** The Redis of `serve`, with a real redis-server behind a script that makes it say and do what a test wants. */
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Redis } from 'ioredis';
import pino from 'pino';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type PrivateRedis, startPrivateRedis } from '../../src/commands/private-redis.ts';

interface LogLine {
  level: number;
  msg: string;
  redis?: string;
  lastLines?: string[];
  againInMs?: number;
  signal?: string | null;
  code?: number | null;
  err?: { code?: string };
}

const warn = 40;
let folder: string;
let script: string;
let log: LogLine[];
let running: PrivateRedis | undefined;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pisa-private-'));
  script = path.join(folder, 'redis-server');
  log = [];
  vi.stubEnv('PATH', `${folder}:${process.env.PATH}`);
  vi.stubEnv('REAL_PATH', process.env.PATH?.slice(folder.length + 1));
});
afterEach(async () => {
  await running?.stop();
  running = undefined;
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true, force: true });
});

/** @param before lines of bash, run before the real redis-server takes over, except when its version is asked for */
async function redisServer(before: string): Promise<void> {
  const exec = 'PATH=$REAL_PATH exec redis-server "$@"';
  await writeFile(script, `#!/bin/bash\nif [ "$1" != --version ]; then\n${before}\nfi\n${exec}\n`);
  await chmod(script, 0o755);
}

async function start(): Promise<PrivateRedis> {
  const write = (line: string) => log.push(JSON.parse(line) as LogLine);
  running = await startPrivateRedis(folder, pino({ level: 'info' }, { write }));
  return running;
}

function client({ url }: PrivateRedis): Redis {
  const redis = new Redis({
    path: new URL(url).pathname,
    retryStrategy: () => 20,
    maxRetriesPerRequest: null,
  });
  redis.on('error', () => {});
  return redis;
}

const pidOf = async (redis: Redis): Promise<number> =>
  Number(/process_id:(\d+)/.exec(await redis.info('server'))?.[1]);
const kill = async (redis: Redis): Promise<void> => {
  process.kill(await pidOf(redis), 'SIGKILL');
};
const ends = (): LogLine[] => log.filter(({ msg }) => msg.includes('redis-server ended'));

test('a data folder that cannot be made is named, with its setting', async () => {
  const file = path.join(folder, 'file');
  await writeFile(file, '');
  await expect(startPrivateRedis(file, pino({ level: 'silent' }))).rejects.toMatchObject({
    code: 'not_ready',
    message: expect.stringMatching(/Cannot make the folder .*ENOTDIR.*DATA_DIR/),
  });
});

test('one that is there already is left alone, and its process named', async () => {
  const redis = client(await start());
  const pid = await pidOf(redis);
  await expect(startPrivateRedis(folder, pino({ level: 'silent' }))).rejects.toMatchObject({
    code: 'not_ready',
    message: expect.stringMatching(
      `^Another pisa-serve runs on the data folder ${folder}\\..* process ${pid}\\.$`,
    ),
  });
  expect(await pidOf(redis)).toBe(pid);
  redis.disconnect();
});

test('one that ends is started again, with what it said last in the log', async () => {
  await redisServer('echo the disk is on fire >&2');
  const redis = client(await start());
  await kill(redis);
  await expect.poll(() => ends().length).toBe(1);
  expect(ends()[0]).toMatchObject({
    level: 50,
    signal: 'SIGKILL',
    code: null,
    againInMs: 500,
    lastLines: expect.arrayContaining(['the disk is on fire']),
  });
  // Waits until it is back.
  expect(await redis.ping()).toBe('PONG');
  redis.disconnect();
});

test('one that ends again and again waits longer and longer', async () => {
  const starts = path.join(folder, 'starts');
  await redisServer(
    `echo start >> ${starts}\nif [ $(wc -l < ${starts}) -gt 1 ]; then echo no space left; exit 7; fi`,
  );
  const redis = client(await start());
  await kill(redis);
  await expect.poll(() => ends().length).toBe(3);
  expect(ends().map(({ againInMs }) => againInMs)).toEqual([500, 1000, 2000]);
  expect(ends()[2]).toMatchObject({ code: 7, lastLines: ['no space left'] });
  redis.disconnect();
  await running?.stop();
  expect((await readFile(starts, 'utf8')).trim().split('\n')).toHaveLength(3);
});

test('one that cannot be started again is tried again, and the service lives', async () => {
  await redisServer(':');
  const redis = client(await start());
  await chmod(script, 0o644);
  vi.stubEnv('PATH', folder);
  await kill(redis);
  await expect.poll(() => ends().length).toBe(2);
  expect(ends()[1]).toMatchObject({ err: { code: 'EACCES' }, againInMs: 1000, lastLines: [] });
  await chmod(script, 0o755);
  expect(await redis.ping()).toBe('PONG');
  redis.disconnect();
});

test('what it warns of is logged, and its pipes never fill', async () => {
  // Far more than a pipe holds, and every start says it.
  await redisServer(
    `for i in $(seq 3000); do echo "1:M 30 Nov 2026 03:54:42.619 # WARNING $i ${'x'.repeat(50)}"; done\necho "1:M 30 Nov 2026 03:54:42.619 # Configuration loaded"`,
  );
  const redis = client(await start());
  const warnings = (): LogLine[] => log.filter(({ level }) => level === warn);
  await expect.poll(() => warnings().length).toBeGreaterThanOrEqual(3000);
  const first = warnings();
  expect(first[0]?.redis).toMatch(/^WARNING 1 x+$/);
  expect(first.some(({ redis: text }) => text?.includes('Configuration loaded'))).toBe(false);
  await kill(redis);
  expect(await redis.ping()).toBe('PONG');
  await expect.poll(() => warnings().length).toBeGreaterThanOrEqual(6000);
  redis.disconnect();
});

test('one that does not start at first is told, with its last words', async () => {
  await redisServer('echo unknown option; exit 1');
  await expect(start()).rejects.toMatchObject({
    code: 'not_ready',
    message: 'The private redis-server did not start. Its last words: unknown option',
  });
});
