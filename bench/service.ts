/** Starts the real service (dist/cli.js serve) on a free port with a data folder of its own, and asks it things. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { devicesOf, freePort } from '../test/support/processes.ts';

export interface Service {
  url: string;
  /** From spawn to the first 200 of /readyz, in milliseconds. */
  readyMs: number;
  /** Process ids by role. */
  pids: () => { main: number; device: number };
  stop: () => Promise<void>;
}

/** Compiled, this file is in `.bench/bench`. */
export const root = path.resolve(import.meta.dirname, '../..');

/** Name and version of the model that is measured: the one in the box. */
export function embeddedModel(): string {
  const manifest = path.join(root, 'models/pisa-tiny/manifest.json');
  const { name, version } = JSON.parse(readFileSync(manifest, 'utf8'));
  return `${name} ${version}`;
}

export async function startService(env: Record<string, string> = {}): Promise<Service> {
  const dataDir = mkdtempSync(path.join(tmpdir(), 'pisa-bench-'));
  const port = await freePort();
  const startedAt = performance.now();
  const child = spawn(process.execPath, [path.join(root, 'dist/cli.js'), 'serve'], {
    // Each request is to be worked on, however often it comes.
    env: {
      ...process.env,
      RESULT_CACHE: 'off',
      // On a busy machine a large photo takes minutes.
      MAX_WAIT_SECONDS: '900',
      PORT: String(port),
      DATA_DIR: dataDir,
      LOG_LEVEL: 'warn',
      ...env,
    },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const url = `http://127.0.0.1:${port}`;
  await untilReady(child, url);
  return {
    url,
    readyMs: performance.now() - startedAt,
    pids: () => ({ main: child.pid ?? 0, device: devicesOf(child.pid ?? 0)[0] ?? 0 }),
    stop: async () => {
      const exited = once(child, 'exit');
      child.kill('SIGTERM');
      await exited;
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}

async function untilReady(child: ChildProcess, url: string): Promise<void> {
  for (;;) {
    if (child.exitCode !== null) throw new Error(`the service ended with ${child.exitCode}`);
    const ok = await fetch(`${url}/readyz`).then(
      (response) => response.ok,
      () => false,
    );
    if (ok) return;
    await delay(25);
  }
}

/** What the benchmark reads of a job object (openapi.yaml has all of it). */
export interface JobObject {
  id: string;
  status: string;
  timings_ms: Record<string, number>;
  progress: { stage: string; fraction: number } | null;
  error?: unknown;
}

const query = (params: Record<string, string | number>): string =>
  new URLSearchParams(
    Object.entries(params).map(([name, value]): [string, string] => [name, String(value)]),
  ).toString();

/** One synchronous request for image bytes. */
export async function upscaleSync(
  service: Service,
  image: Buffer,
  params: Record<string, string | number>,
): Promise<{ wallMs: number; job: JobObject }> {
  const startedAt = performance.now();
  const response = await fetch(`${service.url}/upscale?${query(params)}`, {
    method: 'POST',
    headers: { 'content-type': 'image/png', accept: 'image/*' },
    body: new Uint8Array(image),
  });
  if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
  await response.arrayBuffer();
  const wallMs = performance.now() - startedAt;
  return { wallMs, job: await getJob(service, response.headers.get('x-job-id') ?? '') };
}

export async function submit(
  service: Pick<Service, 'url'>,
  image: Buffer,
  params: Record<string, string | number>,
): Promise<JobObject> {
  const response = await fetch(`${service.url}/upscale?${query(params)}`, {
    method: 'POST',
    headers: { 'content-type': 'image/png' },
    body: new Uint8Array(image),
  });
  if (response.status !== 202) throw new Error(`${response.status} ${await response.text()}`);
  return (await response.json()) as JobObject;
}

export async function getJob(service: Pick<Service, 'url'>, id: string): Promise<JobObject> {
  return (await (await fetch(`${service.url}/upscale/${id}`)).json()) as JobObject;
}

export async function cancelJob(service: Service, id: string): Promise<void> {
  await fetch(`${service.url}/upscale/${id}`, { method: 'DELETE' });
}

/** One value of the Prometheus page: the first sample of `name`. */
export async function metric(service: Pick<Service, 'url'>, name: string): Promise<number> {
  const text = await (await fetch(`${service.url}/metrics`)).text();
  const line = text
    .split('\n')
    .find((row) => row.startsWith(`${name} `) || row.startsWith(`${name}{`));
  return Number(line?.split(' ').at(-1) ?? Number.NaN);
}
