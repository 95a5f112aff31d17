/**
 * `make webhooks`: every kind of bad receiver against the real service. Every live receiver must get every event at
 * least once, with a signature that the `standardwebhooks` package accepts. Prints a Markdown table and writes
 * bench/results/webhook-matrix.md. The receiver that is down stays so for MINUTES (10), by the default schedule of
 * retries: a quarter of an hour in all. SCALE=60 divides the outage and the schedule alike.
 */
import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import { Webhook } from 'standardwebhooks';
import { startDeployment } from '../test/support/deployment.ts';
import { freePort } from '../test/support/processes.ts';
import { sendForEver } from '../test/support/receiver.ts';
import { table, writeResult } from './results.ts';
import { getJob, root, submit } from './service.ts';

const minutes = Number(process.env.MINUTES ?? 10);
const scale = Number(process.env.SCALE ?? 1);
/** As the WEBHOOK_RETRY_SECONDS setting has it. */
const schedule = [5, 30, 120, 600, 1800, 3600, 7200, 14_400, 21_600, 32_400];
const timeoutSeconds = 3;
const jobsEach = 3;
const outageMs = (minutes * 60_000) / scale;
/** The outage, the longest wait that can follow it, and room for a busy machine. */
const limitMs = 2 * outageMs + 300_000;

interface Attempt {
  id: string;
  atMs: number;
  verified: boolean;
  type: string;
}

interface Case {
  name: string;
  /** False: it never takes an event, whatever we do. */
  live: boolean;
  /** @param earlier attempts of the same event before this one */
  answer: (response: ServerResponse, earlier: number, attempt: Attempt) => void;
}

const sendTenGigabytes = (response: ServerResponse): void =>
  sendForEver(response, 200, { 'content-length': String(10 * 1024 ** 3) });
const ok = (response: ServerResponse): void => void response.writeHead(204).end();

const startedAt = Date.now();
const isDown = (): boolean => Date.now() - startedAt < outageMs;

const cases: Case[] = [
  { name: `down for ${minutes} min, then well`, live: true, answer: ok },
  {
    name: 'two times 500, then well',
    live: true,
    answer: (response, earlier) =>
      earlier < 2 ? void response.writeHead(500).end() : ok(response),
  },
  {
    name: 'too slow at first, then well',
    live: true,
    answer: (response, earlier) => (earlier < 1 ? undefined : ok(response)),
  },
  { name: 'answers 200 and 10 GB', live: true, answer: sendTenGigabytes },
  {
    name: '429 with Retry-After, then well',
    live: true,
    answer: (response, earlier) =>
      earlier < 1 ? void response.writeHead(429, { 'retry-after': '7' }).end() : ok(response),
  },
  {
    name: 'redirects',
    live: false,
    answer: (response) => void response.writeHead(307, { location: '/elsewhere' }).end(),
  },
  { name: '410', live: false, answer: (response) => void response.writeHead(410).end() },
];

const secret = `whsec_${randomBytes(32).toString('base64')}`;
const verifier = new Webhook(secret);

function read(request: IncomingMessage, body: string): Attempt {
  const id = String(request.headers['webhook-id']);
  const seen = { id, atMs: Date.now() - startedAt };
  try {
    const event = verifier.verify(body, request.headers as Record<string, string>);
    return { ...seen, verified: true, type: (event as { type: string }).type };
  } catch {
    return { ...seen, verified: false, type: '' };
  }
}

/** A receiver that is down listens to nothing: connections are refused. */
async function startCase({ answer }: Case, index: number) {
  const attempts: Attempt[] = [];
  const server = createServer(async (request, response) => {
    response.on('error', () => {});
    const attempt = read(request, await text(request));
    const earlier = attempts.filter(({ id }) => id === attempt.id).length;
    attempts.push(attempt);
    answer(response, earlier, attempt);
  });
  const port = await freePort();
  const listen = () => server.listen(port, '127.0.0.1');
  if (index === 0) setTimeout(listen, Math.max(0, outageMs - (Date.now() - startedAt)));
  else listen();
  return { attempts, url: `http://127.0.0.1:${port}/hook`, server };
}

const receivers = await Promise.all(
  cases.map(async (one, index) => ({ ...one, ...(await startCase(one, index)) })),
);
const deployment = await startDeployment({
  root,
  env: {
    MODELS_DIR: path.join(root, 'test/fixtures/bundles'),
    MODEL: 'identity',
    RESULT_CACHE: 'off',
    WEBHOOK_SECRET: secret,
    WEBHOOK_ALLOWED_HOSTS: '127.0.0.1',
    WEBHOOK_TIMEOUT_SECONDS: String(timeoutSeconds),
    WEBHOOK_RETRY_SECONDS: schedule.map((seconds) => seconds / scale).join(','),
  },
});
await deployment.ready();
const photo = await sharp({
  create: { width: 16, height: 16, channels: 3, background: '#808080' },
})
  .png()
  .toBuffer();
const told = await Promise.all(
  receivers.map(async (receiver) => {
    const ids: string[] = [];
    for (let job = 0; job < jobsEach; job += 1) {
      ids.push((await submit(deployment, photo, { webhook: receiver.url })).id);
    }
    return { ...receiver, ids };
  }),
);
const deliveryOf = async (id: string) => {
  const { webhook } = (await getJob(deployment, id)) as {
    webhook?: { status: string; attempts: number };
  };
  return webhook ?? { status: '', attempts: 0 };
};
const isDone = async ({ ids, live, name }: (typeof told)[number]): Promise<boolean> => {
  const states = await Promise.all(ids.map(deliveryOf));
  if (live) return states.every(({ status }) => status === 'delivered');
  // It never will be: enough that it is tried again, and that 410 ends it.
  return states.every(({ status, attempts }) =>
    name === '410' ? status === 'failed' : attempts >= 2,
  );
};
while (Date.now() - startedAt < limitMs) {
  const done = await Promise.all(told.map(isDone));
  if (done.every(Boolean) && !isDown()) break;
  await delay(1000);
}

const ends = await Promise.all(
  told.map(async (receiver) => ({
    ...receiver,
    states: await Promise.all(receiver.ids.map(deliveryOf)),
  })),
);
const rows = ends.map(({ name, ids, attempts, states }) => {
  const got = ids.filter((id) => attempts.some((attempt) => attempt.id === id));
  const last = Math.max(...attempts.map(({ atMs }) => atMs));
  return [
    name,
    ids.length,
    states.map(({ attempts: count }) => count).join(', '),
    got.length,
    `${attempts.filter(({ verified }) => verified).length} of ${attempts.length}`,
    [...new Set(states.map(({ status }) => status))].join(', '),
    `${(last / 1000).toFixed(0)} s`,
  ];
});
for (const { server } of receivers) {
  server.closeAllConnections();
  server.close();
}
const left = await deployment.stop();
// An attempt that it answered with 500 is none that it got.
const faults = ends.filter(
  ({ live, states, attempts }) =>
    attempts.some(({ verified }) => !verified) ||
    (live && states.some(({ status }) => status !== 'delivered')),
);
writeResult(
  'webhook-matrix',
  `# Webhook matrix

\`make webhooks${minutes === 10 ? '' : ` MINUTES=${minutes}`}${scale === 1 ? '' : ` SCALE=${scale}`}\`, ${new Date().toISOString()}. ${jobsEach} events to each receiver; schedule ${scale === 1 ? 'as by default' : `1/${scale} of the default`}.

${table(
  [
    'receiver',
    'events',
    'attempts by event',
    'events seen',
    'signatures verified',
    'state of the deliveries',
    'last attempt after',
  ],
  rows,
)}

${faults.length === 0 ? 'Every live receiver got every event, and every signature verifies.' : `FAULTS: ${faults.map(({ name }) => name).join('; ')}`}
`,
);
process.exitCode = faults.length === 0 && left.length === 0 ? 0 : 1;
