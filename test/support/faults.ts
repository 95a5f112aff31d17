/**
 * Jobs under random SIGKILLs of every kind of process: device processes, workers (supervisors), the API, Redis. Through
 * the public API only, and, at the end, a look into Redis and the object store for what was left behind.
 */
import { createHash, randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import { type Deployment, devicesOfDeployment, leftInQueue } from './deployment.ts';

const kinds = ['device', 'worker', 'api', 'redis'] as const;
type Kind = (typeof kinds)[number];

export interface FaultsOptions {
  /** At least so many; on a fast machine more, until each kind of process was killed once under load. */
  jobs: number;
  /** Time between two kills is up to twice this. */
  meanPauseMs: number;
  /** Stops killing after so many. */
  maxKills: number;
  /** Of the whole run. */
  limitMs: number;
  onProgress?: (text: string) => void;
}

export interface FaultsReport {
  /** Accepted. */
  jobs: number;
  kills: Record<Kind, number>;
  /** Jobs by final status; `open` has not ended, `lost` is not known any more. */
  statuses: Record<string, number>;
  distinctIds: number;
  /** Results that are byte for byte what the same request gives without faults. */
  rightResults: number;
  /** Requests that had to be sent again, because the API or Redis was away. */
  requestsRepeated: number;
  /** Jobs that BullMQ still has in a list of work. */
  leftInQueue: number;
  /** After all jobs were deleted: keys and objects that name one, and keys that never expire and are not the service's own. */
  orphanKeys: string[];
  orphanObjects: string[];
  /** Live processes before the end, less those that should be there. */
  orphanProcesses: number;
  seconds: number;
}

/** Sizes in pixels: some are done at once, some take many tiles, so that a kill meets every stage. */
const edges = [16, 24, 60, 100, 160];
const submittersAtOnce = 8;
const againMs = 150;
/** Keys that stay while the service runs: BullMQ's own records of its queues, and the registries. */
const ownKeys =
  /^(bull:(upscale|webhooks):(meta|id|events|marker|stalled-check|metrics:.*|completed|failed|pc)|pisa:(models|workers|worker:.*|kept:.*))$/;
const finals = ['succeeded', 'failed', 'canceled'];

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export async function runFaults(
  deployment: Deployment,
  options: FaultsOptions,
): Promise<FaultsReport> {
  const startedAt = Date.now();
  const deadline = startedAt + options.limitMs;
  const images = await Promise.all(edges.map(testPhoto));
  const client = new Client(deployment.url, deadline);
  const expected: string[] = [];
  for (const image of images)
    expected.push(sha256(await client.resultOf(await client.submit(image))));

  const ids: string[] = [];
  const killer = new Killer(deployment, options);
  const { redis, api, workers } = deployment.processes;
  // As an orchestrator does: a worker ends by itself when its device cannot start, and is started again.
  const keeper = setInterval(() => {
    for (const one of [redis, api, ...workers]) one.start();
  }, 1000);
  const killing = killer.run();
  let next = 0;
  const submit = async (): Promise<void> => {
    while (next < options.jobs || killer.total < kinds.length) {
      const job = next++;
      ids[job] = await client.submit(images[job % images.length] ?? Buffer.alloc(0));
    }
  };
  await Promise.all(Array.from({ length: submittersAtOnce }, submit));
  options.onProgress?.(`all ${ids.length} jobs are accepted; ${killer.total} kills so far`);
  const ends = await client.untilEnded(ids, () => killer.stop());
  killer.stop();
  await killing;
  await deployment.ready();
  clearInterval(keeper);

  const statuses: Record<string, number> = {};
  for (const end of ends) statuses[end] = (statuses[end] ?? 0) + 1;
  let rightResults = 0;
  for (const [job, id] of ids.entries()) {
    const right = ends[job] === 'succeeded' && sha256(await client.resultOf(id));
    if (right === expected[job % expected.length]) rightResults += 1;
  }
  return {
    jobs: ids.length,
    kills: killer.kills,
    statuses,
    distinctIds: new Set(ids).size,
    rightResults,
    requestsRepeated: client.repeated,
    ...(await lookForOrphans(deployment, client)),
    seconds: (Date.now() - startedAt) / 1000,
  };
}

/** A photo-like PNG that no two edges share. */
async function testPhoto(edge: number): Promise<Buffer> {
  const pixels = Buffer.alloc(edge * edge * 3);
  for (let i = 0; i < pixels.length; i += 1) pixels[i] = (i * 31 + (i % 7) * 40 + edge) % 256;
  const raw = { width: edge, height: edge, channels: 3 as const };
  return sharp(pixels, { raw }).png().toBuffer();
}

/** Sends whatever it sends until it is answered, as a careful client does. */
class Client {
  repeated = 0;
  readonly made: string[] = [];
  readonly #url: string;
  readonly #deadline: number;

  constructor(url: string, deadline: number) {
    this.#url = url;
    this.#deadline = deadline;
  }

  /** @returns the job's id */
  async submit(image: Uint8Array): Promise<string> {
    const headers = { 'content-type': 'image/png', 'idempotency-key': randomUUID() };
    const answer = await this.#ask('/upscale?sem=0.5', { method: 'POST', headers, body: image });
    if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`);
    const { id } = (await answer.json()) as { id: string };
    this.made.push(id);
    return id;
  }

  /** The bytes of its result, when it has ended. */
  async resultOf(id: string): Promise<Buffer> {
    await this.untilEnded([id]);
    const answer = await this.#ask(`/upscale/${id}/result`);
    return Buffer.from(await answer.arrayBuffer());
  }

  /** @param onMost called when nine of ten have ended */
  async untilEnded(ids: readonly string[], onMost: () => void = () => {}): Promise<string[]> {
    const ends: string[] = ids.map(() => 'open');
    for (;;) {
      for (const [index, id] of ids.entries()) {
        if (ends[index] === 'open') ends[index] = await this.#statusOf(id);
      }
      const open = ends.filter((end) => end === 'open').length;
      if (open <= ids.length / 10) onMost();
      if (open === 0 || Date.now() > this.#deadline) return ends;
      await delay(againMs);
    }
  }

  async #statusOf(id: string): Promise<string> {
    const answer = await this.#ask(`/upscale/${id}`);
    if (answer.status === 404) return 'lost';
    const { status } = (await answer.json()) as { status: string };
    return finals.includes(status) ? status : 'open';
  }

  async delete(id: string): Promise<void> {
    await (await this.#ask(`/upscale/${id}`, { method: 'DELETE' })).arrayBuffer();
  }

  /** Until it is answered by other than 429 or 503. */
  async #ask(path: string, init: RequestInit = {}): Promise<Response> {
    for (;;) {
      const signal = AbortSignal.timeout(60_000);
      const answer = await fetch(this.#url + path, { ...init, signal }).catch(() => undefined);
      if (answer && answer.status !== 503 && answer.status !== 429) return answer;
      await answer?.arrayBuffer().catch(() => {});
      if (Date.now() > this.#deadline) throw new Error(`no answer to ${path} until the end`);
      this.repeated += 1;
      await delay(againMs);
    }
  }
}

/** Kills one process after the other, at random, and starts each again a moment later. */
class Killer {
  readonly kills: Record<Kind, number> = { device: 0, worker: 0, api: 0, redis: 0 };
  readonly #deployment: Deployment;
  readonly #options: FaultsOptions;
  #stopped = false;

  constructor(deployment: Deployment, options: FaultsOptions) {
    this.#deployment = deployment;
    this.#options = options;
  }

  get total(): number {
    return Object.values(this.kills).reduce((sum, count) => sum + count, 0);
  }

  stop(): void {
    this.#stopped = true;
  }

  async run(): Promise<void> {
    while (!this.#stopped && this.total < this.#options.maxKills) {
      await delay(2 * this.#options.meanPauseMs * Math.random());
      // In turn, so that no kind is left out, at a moment that nobody chose.
      const kind = kinds[this.total % kinds.length] ?? 'device';
      await this.#kill(kind);
      this.kills[kind] += 1;
    }
  }

  async #kill(kind: Kind): Promise<void> {
    const { redis, api, workers } = this.#deployment.processes;
    if (kind === 'device') {
      // Its supervisor starts the next one. None may be up: it was killed a moment ago.
      let devices = devicesOfDeployment(this.#deployment);
      for (; devices.length === 0 && !this.#stopped; await delay(againMs)) {
        devices = devicesOfDeployment(this.#deployment);
      }
      const victim = any(devices);
      if (victim !== undefined) process.kill(victim, 'SIGKILL');
      return;
    }
    const victim = kind === 'worker' ? any(workers) : kind === 'api' ? api : redis;
    if (!victim) return;
    await victim.end('SIGKILL');
    await delay(500 * Math.random());
    victim.start();
  }
}

const any = <T>(items: readonly T[]): T | undefined =>
  items[Math.floor(items.length * Math.random())];

async function lookForOrphans(
  deployment: Deployment,
  client: Client,
): Promise<Pick<FaultsReport, 'leftInQueue' | 'orphanKeys' | 'orphanObjects' | 'orphanProcesses'>> {
  const { redis, processes } = deployment;
  const left = await leftInQueue(deployment);
  for (const id of client.made) await client.delete(id);
  const orphanKeys: string[] = [];
  for (const key of await redis.keys('*')) {
    const isOfJob = client.made.some((id) => key.includes(id));
    if (isOfJob || (!ownKeys.test(key) && (await redis.ttl(key)) === -1)) orphanKeys.push(key);
  }
  // Redis, the API, the workers, and a device process for each of these.
  const due = 2 + 2 * processes.workers.length;
  // A device whose supervisor was killed notices when it has ended what it was about.
  for (let looks = 0; looks < 300 && deployment.pids().length !== due; looks += 1) {
    await delay(100);
  }
  return {
    leftInQueue: left,
    orphanKeys,
    orphanObjects: await deployment.objects(),
    orphanProcesses: deployment.pids().length - due,
  };
}
