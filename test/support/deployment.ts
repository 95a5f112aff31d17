/**
 * Redis, an API and workers as processes of their own, run from `dist/` as docs/operations.md runs them. Each can be
 * killed and started again, and all that they start can be found.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { allPids, devicesOf, freePort, freePorts, isAlive, procFile } from './processes.ts';

export interface DeploymentOptions {
  /** The repository's folder. */
  root: string;
  env?: Record<string, string>;
  /** Default 1. With 0 the API is ready without devices. */
  workers?: number;
  /** Keep what API and workers log, for `logs()`; else it goes to this process's stderr. */
  logs?: boolean;
}

export interface Deployment {
  readonly url: string;
  /** Probes and metrics of the workers. */
  readonly workerUrls: string[];
  /** Commands wait while Redis is away. */
  readonly redis: Redis;
  readonly processes: { redis: Managed; api: Managed; workers: Managed[] };
  /** Resolves when the service can work. */
  ready(): Promise<void>;
  /** Starts one more process of a kind, on a port of its own. `stop` ends it, too. */
  add(command: 'api' | 'worker'): Promise<Replica>;
  /** Every live process of the deployment, also those that lost their parent. */
  pids(): number[];
  /** Lines of API and workers so far, with the option `logs`. */
  logs(): string;
  /** The objects in the folder store. */
  objects(): Promise<string[]>;
  /** SIGTERM to all but Redis, which ends last. Resolves to the processes that are left, which are killed then. */
  stop(): Promise<number[]>;
}

/** One of several processes of a kind. */
export interface Replica {
  readonly process: Managed;
  /** Of the API, or of a worker's probes. */
  readonly url: string;
}

/** A process that is started again under the same name. */
class Managed {
  readonly #spawn: () => ChildProcess;
  #child: ChildProcess | undefined;

  constructor(spawnProcess: () => ChildProcess) {
    this.#spawn = spawnProcess;
  }

  /** 0 while it does not run. */
  get pid(): number {
    const running = this.#child?.exitCode === null && this.#child.signalCode === null;
    return running ? (this.#child?.pid ?? 0) : 0;
  }

  /** Of the last life; null while it runs, and when a signal ended it. */
  get exitCode(): number | null {
    return this.#child?.exitCode ?? null;
  }

  start(): void {
    if (this.pid === 0) this.#child = this.#spawn();
  }

  /** Resolves when it has ended. */
  async end(signal: NodeJS.Signals): Promise<void> {
    if (this.pid === 0 || !this.#child) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill(signal);
    await exited;
  }
}

const readyLimitMs = 300_000;
/** In the environment of every process of a deployment, and so in that of whatever they start. */
const mark = 'PISA_DEPLOYMENT';

/** Settings for a deployment that is killed again and again: a model that starts at once, and no answer without work. */
export const toyModelSettings = (root: string): Record<string, string> => ({
  MODELS_DIR: path.join(root, 'test/fixtures/bundles'),
  MODEL: 'identity',
  DEVICE_THREADS: '1',
  RESULT_CACHE: 'off',
});

export async function startDeployment({
  root,
  env = {},
  workers = 1,
  logs = false,
}: DeploymentOptions): Promise<Deployment> {
  const id = randomUUID();
  const folder = await mkdtemp(path.join(tmpdir(), 'pisa-deployment-'));
  const socket = path.join(folder, 'redis.sock');
  const objectsFolder = path.join(folder, 'objects');
  await mkdir(objectsFolder);
  // Each starts again where it was, so none may pick its own.
  const [port = 0, ...workerPorts] = await freePorts(1 + workers);
  const url = `http://127.0.0.1:${port}`;
  const common = {
    ...process.env,
    [mark]: id,
    REDIS_URL: `unix://${socket}`,
    STORAGE: `folder:${objectsFolder}`,
    PORT: String(port),
    LOG_LEVEL: 'fatal',
    ...env,
  };
  let logged = '';
  const run = (command: 'api' | 'worker', own: Record<string, string> = {}) =>
    new Managed(() => {
      const child = spawn(process.execPath, [path.join(root, 'dist/cli.js'), command], {
        env: { ...common, ...own },
        stdio: ['ignore', 'ignore', logs ? 'pipe' : 'inherit'],
      });
      child.stderr?.on('data', (chunk: Buffer) => {
        logged += chunk.toString();
      });
      return child;
    });
  const redisServer = new Managed(() =>
    spawn(
      'redis-server',
      [
        ...['--port', '0', '--unixsocket', socket, '--dir', folder, '--save', ''],
        ...['--appendonly', 'yes', '--appendfsync', 'everysec', '--loglevel', 'warning'],
      ],
      { env: common, stdio: 'ignore' },
    ),
  );
  const processes = {
    redis: redisServer,
    api: run('api'),
    workers: workerPorts.map((workerPort) => run('worker', { WORKER_PORT: String(workerPort) })),
  };
  const all = [processes.redis, processes.api, ...processes.workers];
  for (const one of all) one.start();
  // A run that is killed must not leave its processes behind.
  const endWithUs = () => {
    for (const pid of pids()) process.kill(pid, 'SIGKILL');
  };
  process.once('exit', endWithUs);
  const redis = new Redis({ path: socket, maxRetriesPerRequest: null, retryStrategy: () => 50 });
  redis.on('error', () => {});
  const workerUrls = workerPorts.map((workerPort) => `http://127.0.0.1:${workerPort}`);

  // Redis writes its title over its environment; the title names its socket.
  const isOurs = (pid: number) =>
    procFile(pid, 'environ').includes(`${mark}=${id}`) || procFile(pid, 'cmdline').includes(socket);
  const pids = () => allPids().filter((pid) => isAlive(pid) && isOurs(pid));
  const deployment: Deployment = {
    url,
    workerUrls,
    redis,
    processes,
    pids,
    logs: () => logged,
    add: async (command) => {
      const port = await freePort();
      const setting = command === 'api' ? 'PORT' : 'WORKER_PORT';
      const added = run(command, { [setting]: String(port) });
      all.push(added);
      added.start();
      return { process: added, url: `http://127.0.0.1:${port}` };
    },
    ready: async () => {
      const deadline = Date.now() + readyLimitMs;
      const api = workers === 0 ? `${url}/readyz?exclude=devices` : `${url}/readyz`;
      for (const probe of [api, ...workerUrls.map((worker) => `${worker}/readyz`)]) {
        while (!(await answersOk(probe))) {
          if (Date.now() > deadline) throw new Error(`not ready in time: ${probe}`);
          await delay(50);
        }
      }
    },
    objects: async () => {
      const entries = await readdir(objectsFolder, { recursive: true, withFileTypes: true });
      // What a killed process was writing is swept after an hour.
      const abandoned = path.join(objectsFolder, '.writing');
      return entries
        .filter((entry) => entry.isFile() && entry.parentPath !== abandoned)
        .map(({ name, parentPath }) => path.relative(objectsFolder, path.join(parentPath, name)));
    },
    stop: async () => {
      redis.disconnect();
      await Promise.all(all.slice(1).map((one) => one.end('SIGTERM')));
      await processes.redis.end('SIGTERM');
      // A device that lost its parent notices at once, unless the machine is busy.
      for (let looks = 0; looks < 100 && pids().length > 0; looks += 1) await delay(100);
      const left = pids();
      endWithUs();
      process.off('exit', endWithUs);
      await rm(folder, { recursive: true, force: true });
      return left;
    },
  };
  return deployment;
}

/** The device processes of a deployment's workers. */
export const devicesOfDeployment = ({ processes }: Deployment): number[] =>
  processes.workers.flatMap(({ pid }) => (pid === 0 ? [] : devicesOf(pid)));

/** Jobs that a worker runs, as its metrics say; 0 while it does not answer. */
export async function runningJobs(workerUrl: string): Promise<number> {
  const text = await fetch(`${workerUrl}/metrics`).then(
    (answer) => answer.text(),
    () => '',
  );
  const counts = text.matchAll(/^pisa_device_jobs\{[^}]*\} (\d+)/gm);
  return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
}

/** Jobs that BullMQ still has in a list of work. */
export async function leftInQueue({ redis }: Deployment): Promise<number> {
  const lengths = await Promise.all([
    ...['wait', 'active', 'paused'].map((list) => redis.llen(`bull:upscale:${list}`)),
    ...['delayed', 'prioritized', 'waiting-children'].map((set) =>
      redis.zcard(`bull:upscale:${set}`),
    ),
  ]);
  return lengths.reduce((sum, length) => sum + length, 0);
}

export const answersOk = (url: string): Promise<boolean> =>
  fetch(url, { signal: AbortSignal.timeout(10_000) }).then(
    async (response) => {
      await response.arrayBuffer();
      return response.ok;
    },
    () => false,
  );
