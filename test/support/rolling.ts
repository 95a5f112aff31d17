/**
 * A new version is rolled out under load: two API processes behind a load balancer and two workers, each replaced by a new
 * process while clients send images. As Kubernetes does: the new one is ready, then the old one gets SIGTERM, and nothing
 * else. A request counts as failed whatever the reason; none is sent again.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import { Balancer } from './balancer.ts';
import {
  answersOk,
  type Deployment,
  leftInQueue,
  type Replica,
  runningJobs,
} from './deployment.ts';

export interface RollingOptions {
  /** The repository's folder. */
  root: string;
  /** Clients, each with one request after the other. Every second one waits for its image in the request. */
  clients: number;
  /** How often every process is replaced. */
  rounds: number;
  /** Load before the first, between any two and after the last replacement. */
  pauseMs: number;
  onProgress?: (text: string) => void;
}

export interface RollingReport {
  requests: number;
  /** What was wrong, each with the request. */
  failed: string[];
  accepted: number;
  distinctIds: number;
  /** Jobs by final status. */
  statuses: Record<string, number>;
  /** Results that are byte for byte what the same request gave before. */
  rightResults: number;
  /** Jobs that BullMQ has as completed: more than accepted would be work that nobody asked for. */
  completed: number;
  leftInQueue: number;
  replaced: { api: number; worker: number };
  /** Of the replaced processes. */
  exitCodes: (number | null)[];
  /** Jobs that ran on a worker when it got SIGTERM. */
  runningAtSigterm: number;
  seconds: number;
}

/** Pixels of the inputs' edges: some jobs take one tile, some many. */
const edges = [24, 60, 120];
const checkMs = 250;
const lookMs = 50;
const mostLooks = 400;
const finals = ['succeeded', 'failed', 'canceled'];

export async function runRolling(
  deployment: Deployment,
  options: RollingOptions,
): Promise<RollingReport> {
  const startedAt = performance.now();
  const balancer = await Balancer.start(checkMs);
  const apis: Replica[] = [
    { process: deployment.processes.api, url: deployment.url },
    await deployment.add('api'),
  ];
  const workers: Replica[] = deployment.processes.workers.map((process, index) => ({
    process,
    url: deployment.workerUrls[index] ?? '',
  }));
  for (const { url } of apis) await balancer.add(url);
  const load = await Load.start(balancer.url, options.root);
  const clients = Array.from({ length: options.clients }, (_, client) => load.run(client));

  const replaced = { api: 0, worker: 0 };
  const exitCodes: (number | null)[] = [];
  let runningAtSigterm = 0;
  const replace = async (kind: 'api' | 'worker', old: Replica): Promise<Replica> => {
    await delay(options.pauseMs);
    const next = await deployment.add(kind);
    if (kind === 'api') await balancer.add(next.url);
    else while (!(await answersOk(`${next.url}/readyz`))) await delay(checkMs);
    if (kind === 'worker') runningAtSigterm += await untilRunning(old.url);
    await old.process.end('SIGTERM');
    balancer.forget(old.url);
    replaced[kind] += 1;
    exitCodes.push(old.process.exitCode);
    options.onProgress?.(`${replaced.api} APIs and ${replaced.worker} workers are replaced`);
    return next;
  };
  for (let round = 0; round < options.rounds; round += 1) {
    for (const [index, old] of apis.entries()) apis[index] = await replace('api', old);
    for (const [index, old] of workers.entries()) workers[index] = await replace('worker', old);
  }
  await delay(options.pauseMs);
  load.stop();
  await Promise.all(clients);
  const { requests, failed } = load;
  const ends = await load.ends();
  await balancer.close();
  return {
    requests,
    failed,
    ...ends,
    completed: await deployment.redis.zcard('bull:upscale:completed'),
    leftInQueue: await leftInQueue(deployment),
    replaced,
    exitCodes,
    runningAtSigterm,
    seconds: (performance.now() - startedAt) / 1000,
  };
}

/**
 * The worker is to be replaced in the middle of work, which the load brings it again and again.
 * @returns how many jobs it runs; 0 if it had none whenever it was looked at
 */
async function untilRunning(workerUrl: string): Promise<number> {
  for (let looks = 0; looks < mostLooks; looks += 1) {
    const running = await runningJobs(workerUrl);
    if (running > 0) return running;
    await delay(lookMs);
  }
  return 0;
}

interface Accepted {
  id: string;
  edge: number;
}

class Load {
  requests = 0;
  readonly failed: string[] = [];
  readonly #url: string;
  readonly #photos: Map<number, Uint8Array>;
  readonly #expected = new Map<number, string>();
  readonly #accepted: Accepted[] = [];
  #stopped = false;

  private constructor(url: string, photos: Map<number, Uint8Array>) {
    this.#url = url;
    this.#photos = photos;
  }

  /** Makes the results that all later ones are held against. */
  static async start(url: string, root: string): Promise<Load> {
    const photo = readFileSync(path.join(root, 'test/photos/cat-128.jpg'));
    const photos = new Map<number, Uint8Array>();
    for (const edge of edges) {
      photos.set(edge, new Uint8Array(await sharp(photo).resize(edge, edge).png().toBuffer()));
    }
    const load = new Load(url, photos);
    for (const edge of edges) {
      const accepted = await load.#post(edge, {});
      if (!accepted || !(await load.#ended(accepted.id))) {
        throw new Error(`The service did not work before the roll-out: ${load.failed.join('; ')}`);
      }
      load.#expected.set(edge, await load.#resultOf(accepted.id));
    }
    return load;
  }

  stop(): void {
    this.#stopped = true;
  }

  async run(client: number): Promise<void> {
    const waits = client % 2 === 1;
    for (let turn = client; !this.#stopped; turn += 1) {
      const edge = edges[turn % edges.length] ?? 0;
      const accepted = await this.#post(edge, waits ? { accept: 'image/png' } : {});
      if (accepted && !waits) await this.#ended(accepted.id);
      await this.#ask('/models');
    }
  }

  async ends(): Promise<
    Pick<RollingReport, 'accepted' | 'distinctIds' | 'statuses' | 'rightResults'>
  > {
    const statuses: Record<string, number> = {};
    let rightResults = 0;
    for (const { id, edge } of this.#accepted) {
      const status = (await this.#ended(id)) ?? 'lost';
      statuses[status] = (statuses[status] ?? 0) + 1;
      const isRight =
        status === 'succeeded' && (await this.#resultOf(id)) === this.#expected.get(edge);
      if (isRight) rightResults += 1;
    }
    const distinctIds = new Set(this.#accepted.map(({ id }) => id)).size;
    return { accepted: this.#accepted.length, distinctIds, statuses, rightResults };
  }

  async #post(edge: number, headers: Record<string, string>): Promise<Accepted | undefined> {
    const body = this.#photos.get(edge) ?? new Uint8Array();
    const answer = await this.#ask('/upscale', {
      method: 'POST',
      headers: { 'content-type': 'image/png', ...headers },
      body,
    });
    const id = answer?.headers.get('x-job-id');
    if (!id) return undefined;
    const accepted = { id, edge };
    this.#accepted.push(accepted);
    return accepted;
  }

  /** @returns its final status; undefined when a look at it failed */
  async #ended(id: string): Promise<string | undefined> {
    for (;;) {
      const answer = await this.#ask(`/upscale/${id}`);
      if (!answer) return undefined;
      const { status } = JSON.parse(answer.body.toString()) as { status: string };
      if (finals.includes(status)) return status;
      await delay(lookMs);
    }
  }

  async #resultOf(id: string): Promise<string> {
    const answer = await this.#ask(`/upscale/${id}/result`);
    return createHash('sha256')
      .update(answer?.body ?? '')
      .digest('hex');
  }

  /** @returns undefined when it failed: no answer, or one that a client may not get for a right request */
  async #ask(
    target: string,
    init: RequestInit = {},
  ): Promise<{ headers: Headers; body: Buffer } | undefined> {
    this.requests += 1;
    const what = `${init.method ?? 'GET'} ${target}`;
    try {
      const answer = await fetch(this.#url + target, init);
      const body = Buffer.from(await answer.arrayBuffer());
      if (answer.ok) return { headers: answer.headers, body };
      this.failed.push(`${what}: ${answer.status} ${body.toString()}`);
    } catch (error) {
      const { message, cause } = error as Error;
      this.failed.push(`${what}: ${message} (${cause})`);
    }
    return undefined;
  }
}
