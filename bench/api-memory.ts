/**
 * `make api-memory`: REQUESTS (120,000) requests of whole jobs that need no device – upload answered from a stored result,
 * status, result, DELETE – and the memory of the API for each sixth of them. Half an hour of `make soak` is too short to
 * tell a leak from garbage that V8 has not collected yet; this is as many requests as in hours of it. Writes
 * bench/results/api-memory.md; fails when an answer was not the one that was due.
 */
import sharp from 'sharp';
import { startDeployment, toyModelSettings } from '../test/support/deployment.ts';
import { residentMegabytes } from '../test/support/processes.ts';
import { table, writeResult } from './results.ts';
import { metric, root } from './service.ts';

const requests = Number(process.env.REQUESTS ?? 120_000);
const parts = 6;
const clients = 8;
const lookMs = 1000;
const bytesPerMegabyte = 2 ** 20;

const { RESULT_CACHE: _, ...settings } = toyModelSettings(root);
const deployment = await startDeployment({ root, env: settings });
await deployment.ready();
const { url, redis, processes } = deployment;

const pixels = { width: 32, height: 32, channels: 3 as const };
const image = sharp({ create: { ...pixels, background: '#8040c0' } }).png();
const body = new Uint8Array(await image.toBuffer());

/** @throws TypeError when the answer is another than is due */
async function ask(path: string, status: number, init?: RequestInit): Promise<Response> {
  const answer = await fetch(url + path, init);
  if (answer.status !== status) throw new TypeError(`${answer.status} from ${path}`);
  return answer;
}

async function post(): Promise<{ id: string; cache: string | null }> {
  const headers = { 'content-type': 'image/png', prefer: 'wait=30' };
  const answer = await ask('/upscale?sem=0.5', 200, { method: 'POST', headers, body });
  const { id } = (await answer.json()) as { id: string };
  return { id, cache: answer.headers.get('x-cache') };
}

interface Look {
  rss: number;
  heap: number;
  redis: number;
}
async function look(): Promise<Look> {
  return {
    rss: residentMegabytes(processes.api.pid, 'VmRSS'),
    heap: (await metric({ url }, 'nodejs_heap_size_used_bytes')) / bytesPerMegabyte,
    redis: Number(/^used_memory:(\d+)/m.exec(await redis.info('memory'))?.[1]) / bytesPerMegabyte,
  };
}

await post();
let sent = 0;
let wrong = 0;
const client = async (until: number): Promise<void> => {
  while (sent < until) {
    sent += 4;
    try {
      const { id, cache } = await post();
      if (cache !== 'hit') wrong += 1;
      await (await ask(`/upscale/${id}`, 200)).arrayBuffer();
      await (await ask(`/upscale/${id}/result`, 200)).arrayBuffer();
      await ask(`/upscale/${id}`, 204, { method: 'DELETE' });
    } catch (error) {
      wrong += 1;
      console.error(String(error));
    }
  }
};

const rows: string[][] = [];
for (let part = 1; part <= parts; part += 1) {
  const looks: Look[] = [];
  const looking = setInterval(() => void look().then((seen) => looks.push(seen)), lookMs);
  const until = (part * requests) / parts;
  await Promise.all(Array.from({ length: clients }, () => client(until)));
  clearInterval(looking);
  looks.push(await look());
  const of = (name: keyof Look, pick: (...values: number[]) => number) =>
    pick(...looks.map((seen) => seen[name])).toFixed(1);
  rows.push([
    `${sent}`,
    of('rss', Math.min),
    of('rss', Math.max),
    of('heap', Math.min),
    of('heap', Math.max),
    of('redis', Math.max),
  ]);
  console.error(rows.at(-1)?.join(' '));
}
await deployment.stop();

const allocator = process.env.LD_PRELOAD;
const head = [
  'requests so far',
  'resident, lowest, MB',
  'highest',
  'heap in use, lowest, MB',
  'highest',
  'Redis in use, highest, MB',
];
writeResult(
  'api-memory',
  `# Memory of the API

\`${allocator ? `LD_PRELOAD=${allocator} ` : ''}make api-memory${requests === 120_000 ? '' : ` REQUESTS=${requests}`}\`, ${new Date().toISOString()}. ${clients} clients; ${wrong} answers that were not due.

${table(head, rows)}

The lowest are what is left after V8 has collected its garbage: a leak would raise them from row to row.
`,
);
if (wrong > 0) process.exitCode = 1;
