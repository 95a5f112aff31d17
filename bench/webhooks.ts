/** What bad webhook receivers cost everybody else: the same batch of jobs with and without webhooks to them. */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { sendForEver } from '../test/support/receiver.ts';
import { startHealthProbe } from './health-probe.ts';
import { getJob, metric, startService } from './service.ts';
import { median, quantile } from './statistics.ts';

export interface WebhookRow {
  jobs: number;
  rounds: number;
  /** Jobs a second, medians over the rounds. */
  plainPerSecond: number;
  toldPerSecond: number;
  /** Median of the quotients of batches that ran one after the other. */
  ratio: number;
  /** Of the quotients: what is noise here. */
  spread: [number, number];
  healthzP99Ms: number;
  pendingWebhooks: number;
}

const secret = `whsec_${Buffer.alloc(32, 1).toString('base64')}`;

const tenGigabytes = { 'content-length': String(10 * 1024 ** 3) };

/** By path: never answers, answers 500, redirects, sends without end. */
const behaviours: Record<string, (response: ServerResponse) => void> = {
  '/slow': () => {},
  '/broken': (response) => response.writeHead(500).end(),
  '/redirects': (response) => response.writeHead(307, { location: '/elsewhere' }).end(),
  '/huge': (response) => sendForEver(response, 200, tenGigabytes),
};

/** Alternating batches, so that a slow moment of the machine hits both kinds. */
export async function measureWebhooks(
  photo: Buffer,
  jobs: number,
  rounds: number,
): Promise<WebhookRow> {
  const server = createServer((request, response) => {
    request.resume();
    response.on('error', () => {});
    behaviours[request.url ?? '']?.(response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const bad = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  // Nobody listens on port 1.
  const hooks = [...Object.keys(behaviours).map((path) => bad + path), 'http://127.0.0.1:1/dead'];
  const service = await startService({
    LOG_LEVEL: 'error',
    WEBHOOK_SECRET: secret,
    WEBHOOK_ALLOWED_HOSTS: '127.0.0.1',
    // Soon over, so that a batch without webhooks need not wait for long until nothing of the one before is tried again.
    WEBHOOK_TIMEOUT_SECONDS: '2',
    WEBHOOK_RETRY_SECONDS: '0.5,0.5,0.5',
  });
  const health = startHealthProbe(service.url, 20);
  const pending = () => metric(service, 'pisa_webhooks_pending');

  const perSecond = async (hookOf: (index: number) => string): Promise<number> => {
    const startedAt = performance.now();
    await Promise.all(
      Array.from({ length: jobs }, async (_, index) => {
        const response = await fetch(`${service.url}/upscale?sem=0.5${hookOf(index)}`, {
          method: 'POST',
          headers: { 'content-type': 'image/png', prefer: 'wait=60' },
          body: new Uint8Array(photo),
        });
        const { id, status } = (await response.json()) as { id: string; status: string };
        // On a busy machine the batch may take longer than a request may wait.
        for (let now = status; now !== 'succeeded'; now = (await getJob(service, id)).status) {
          if (response.status !== 200 && response.status !== 202) throw new Error(now);
          await delay(10);
        }
      }),
    );
    return jobs / ((performance.now() - startedAt) / 1000);
  };
  const plain: number[] = [];
  const told: number[] = [];
  await perSecond(() => '');
  for (let round = 0; round < rounds; round += 1) {
    while ((await pending()) > 0) await delay(100);
    plain.push(await perSecond(() => ''));
    told.push(
      await perSecond((i) => `&webhook=${encodeURIComponent(hooks[i % hooks.length] ?? '')}`),
    );
  }
  const pendingWebhooks = await pending();
  const healthMs = await health.stop();
  await service.stop();
  server.closeAllConnections();
  server.close();
  const ratios = told.map((rate, round) => rate / (plain[round] ?? Number.NaN));
  return {
    jobs,
    rounds,
    plainPerSecond: median(plain),
    toldPerSecond: median(told),
    ratio: median(ratios),
    spread: [Math.min(...ratios), Math.max(...ratios)],
    healthzP99Ms: quantile(healthMs, 0.99),
    pendingWebhooks,
  };
}

export const webhookTable = (row: WebhookRow): string =>
  [
    '| jobs a second | with webhooks to receivers that are dead, slow, broken, redirecting, endless | quotient (lowest … highest) | `/healthz` p99 | webhooks pending at the end |',
    '| --- | --- | --- | --- | --- |',
    `| ${row.plainPerSecond.toFixed(1)} | ${row.toldPerSecond.toFixed(1)} | ${row.ratio.toFixed(2)} (${row.spread.map((value) => value.toFixed(2)).join(' … ')}) | ${row.healthzP99Ms.toFixed(1)} ms | ${row.pendingWebhooks} |`,
    '',
    `${row.rounds} pairs of batches of ${row.jobs} jobs, 64² each.`,
  ].join('\n');
