/**
 * `make fuzz`: hostile requests against the real service. schemathesis makes them from the service's own openapi.yaml;
 * damaged images of every format and forbidden URLs make up the number, REQUESTS (10,000) in each of ROUNDS (4). Prints what
 * was answered and the memory of each process after each round, writes bench/results/fuzz.md, and fails on a 5xx that is not
 * a documented 503, on an answer that breaks the contract, on a forbidden URL that is taken, on a process that ended and on
 * one that still grows after the first rounds.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { damage, generator } from '../test/support/damage.ts';
import { devicesOfDeployment, startDeployment } from '../test/support/deployment.ts';
import { photo } from '../test/support/hostile-images.ts';
import { hostileHosts, hostileUrls } from '../test/support/hostile-urls.ts';
import { residentMegabytes } from '../test/support/processes.ts';
import { startCountingProxy } from './counting-proxy.ts';
import { describe, grows, growsMeans, verdict } from './memory.ts';
import { table, writeResult } from './results.ts';
import { root } from './service.ts';
import type { Point } from './statistics.ts';

const wanted = Number(process.env.REQUESTS ?? 10_000);
const rounds = Number(process.env.ROUNDS ?? 4);
/** What was under way is done by then. */
const settleMs = 5000;
/** Of each operation and phase; about a third of all requests. */
const examples = Math.ceil(wanted / 150);
const seed = Number(process.env.SEED ?? 1);
const atOnce = 4;
const formats = ['png', 'jpeg', 'webp', 'avif', 'tiff', 'gif'] as const;

const deployment = await startDeployment({
  root,
  env: {
    MODELS_DIR: path.join(root, 'test/fixtures/bundles'),
    MODEL: 'identity',
    DEVICE_THREADS: '1',
    MAX_WAIT_SECONDS: '1',
    MAX_UPLOAD_BYTES: '200000',
    MAX_INPUT_PIXELS: '20000',
    WEBHOOK_SECRET: `whsec_${Buffer.alloc(32, 1).toString('base64')}`,
    IMAGE_URL_TIMEOUT_SECONDS: '2',
  },
});
await deployment.ready();
const { api, workers } = deployment.processes;
const pids = () => [api.pid, ...workers.map(({ pid }) => pid), ...devicesOfDeployment(deployment)];
const pidsBefore = pids();
const [apiPid = 0, workerPid = 0, devicePid = 0] = pidsBefore;
const proxy = await startCountingProxy(deployment.url);
const look = () => ({
  api: residentMegabytes(apiPid, 'VmRSS'),
  supervisor: residentMegabytes(workerPid, 'VmRSS'),
  device: residentMegabytes(devicePid, 'VmRSS'),
});
type Role = keyof ReturnType<typeof look>;
const roles: Role[] = ['api', 'supervisor', 'device'];
/** By role: megabytes over rounds, in parts of a round by its requests, so that a slow minute of the machine is no longer. */
const series: Record<Role, Point[]> = { api: [], supervisor: [], device: [] };
const looking = setInterval(() => {
  const sizes = look();
  for (const role of roles) series[role].push({ x: proxy.total() / wanted, y: sizes[role] });
}, 1000);

/** @returns its last lines, and whether it found every answer as the contract says */
async function runSchemathesis(round: number): Promise<{ sound: boolean; summary: string }> {
  const checks = [
    'status_code_conformance',
    'content_type_conformance',
    'response_schema_conformance',
  ];
  const program = path.join(root, '.venv-tools/bin/st');
  const args = ['run', path.join(root, 'openapi.yaml'), '--url', proxy.url];
  const options = ['--checks', checks.join(','), '--max-examples', String(examples)];
  const quiet = [
    '--seed',
    String(seed + round),
    '--no-color',
    '--request-timeout',
    '30',
    '--continue-on-failure',
  ];
  const child = spawn(program, [...args, ...options, ...quiet], {
    // It writes its notes where it is.
    cwd: tmpdir(),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  const [code] = (await once(child, 'exit')) as [number | null];
  return { sound: code === 0, summary: output.slice(-6000) };
}

const post = async (init: RequestInit, query = ''): Promise<number> => {
  const answer = await fetch(`${proxy.url}/upscale${query}`, {
    method: 'POST',
    ...init,
    signal: AbortSignal.timeout(60_000),
  });
  await answer.arrayBuffer();
  return answer.status;
};

/** @returns the URLs that were taken, which none should be */
async function sendForbiddenUrls(): Promise<string[]> {
  const hosts = hostileHosts.flatMap((host) => [
    `http://${host}/`,
    `https://${host}/`,
    `http://${host}:8080/a.png`,
    `https://${host}:6379/`,
  ]);
  const taken: string[] = [];
  const headers = { 'content-type': 'application/json' };
  for (const url of [...hosts, ...hostileUrls]) {
    if ((await post({ headers, body: JSON.stringify({ image_url: url }) })) < 400) taken.push(url);
    const status = await post(
      { headers: { 'content-type': 'image/png' }, body: new Uint8Array(sound) },
      `?webhook=${encodeURIComponent(url)}`,
    );
    if (status < 400 && url !== '') taken.push(`webhook ${url}`);
  }
  return taken;
}

/** Until there were `until` requests in all. */
async function sendDamagedImages(round: number, until: number): Promise<void> {
  const images = await Promise.all(formats.map((format) => photo(format, 32, 24)));
  const random = generator(seed + round);
  const sender = async (): Promise<void> => {
    while (proxy.total() < until) {
      let body = images[random(images.length)] ?? sound;
      for (let times = random(4); times >= 0; times -= 1) body = damage(body, random);
      const type = `image/${formats[random(formats.length)]}`;
      await post({ headers: { 'content-type': type }, body: new Uint8Array(body) });
    }
  };
  await Promise.all(Array.from({ length: atOnce }, sender));
}

const sound = await photo('png', 16, 12);
const faults: string[] = [];
const sent = { schemathesis: 0, urls: 0, images: 0 };
const afterRounds: [string, number, ReturnType<typeof look>][] = [['the start', 0, look()]];
for (let round = 0; round < rounds; round += 1) {
  const before = proxy.total();
  const schemathesis = await runSchemathesis(round);
  if (!schemathesis.sound) faults.push(schemathesis.summary);
  const withSchemathesis = proxy.total();
  for (const url of await sendForbiddenUrls()) faults.push(`taken: ${url}`);
  const withUrls = proxy.total();
  await sendDamagedImages(round, (round + 1) * wanted);
  await delay(settleMs);
  sent.schemathesis += withSchemathesis - before;
  sent.urls += withUrls - withSchemathesis;
  sent.images += proxy.total() - withUrls;
  afterRounds.push([`round ${round + 1}`, proxy.total(), look()]);
  console.error(`round ${round + 1}: ${JSON.stringify(look())}`);
}
const total = proxy.total();
clearInterval(looking);
/** The first round is warming up. */
const rows = roles.map((role) =>
  describe(
    role,
    series[role].filter(({ x }) => x > 1),
    0,
  ),
);
const replaced = pids().join() === pidsBefore.join() ? 0 : 1;
proxy.close();
await deployment.stop();

const allFaults = [...proxy.faults, ...faults];
const isFlat = !rows.some(grows);
writeResult(
  'fuzz',
  `# Hostile requests

\`make fuzz${wanted === 10_000 ? '' : ` REQUESTS=${wanted}`}${rounds === 4 ? '' : ` ROUNDS=${rounds}`}\`, ${new Date().toISOString()}, ${rounds} rounds in one run, seeds from ${seed} on.

${table(['what', 'count'], [
  ['requests that schemathesis made from openapi.yaml', sent.schemathesis],
  ['requests with forbidden URLs, as image_url and as webhook', sent.urls],
  ['damaged images of six formats', sent.images],
  ['all', total],
  ...[...proxy.statuses]
    .sort(([a], [b]) => a - b)
    .map(([status, count]) => [`answered ${status}`, count]),
  [
    '5xx that is not a documented 503, no answer, forbidden URL taken, answer against the contract',
    allFaults.length,
  ],
  ['processes that ended', replaced],
] as [string, string | number][])}

Resident memory, MB:

${table(
  ['after', 'requests so far', 'api', 'supervisor', 'device'],
  afterRounds.map(([name, requests, sizes]) => [
    name,
    requests,
    ...[sizes.api, sizes.supervisor, sizes.device].map((megabytes) => megabytes.toFixed(1)),
  ]),
)}

Looked at every second after the first round, which is warming up. The slope is over medians of six seconds, with its 95 % confidence interval; ${growsMeans}.

${table(
  ['process', 'slope, MB a round', 'grows'],
  rows.map((row) => [row.name, ...verdict(row)]),
)}
`,
);
if (allFaults.length + replaced > 0 || !isFlat) {
  console.error(allFaults.join('\n'));
  process.exitCode = 1;
}
