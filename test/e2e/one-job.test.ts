/**
 * One job through an API, a worker, its device process and a webhook, as an operator sees it: log lines that share
 * ids and tell no secret, and one trace at a real OTLP receiver.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Deployment, startDeployment, toyModelSettings } from '../support/deployment.ts';
import { answers, type Receiver, startReceiver } from '../support/receiver.ts';
import { photo, root } from './service.ts';

interface Span {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  kind: number;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  attributes: { key: string; value: Record<string, unknown> }[];
  /** `service.name` of the process that made it. */
  service: string;
}

type Line = Record<string, unknown> & { msg: string };

const requestId = 'order-4711';
const clientSpan = { trace: '0af7651916cd43dd8448eb211c80319c', span: 'b7ad6b7169203331' };
const webhookSecret = `whsec_${randomBytes(32).toString('base64')}`;
const secrets = {
  webhook: webhookSecret.slice('whsec_'.length),
  apiKey: `pisa_${randomBytes(32).toString('base64url')}`,
  token: `tok-${randomBytes(12).toString('hex')}`,
  collector: `col-${randomBytes(12).toString('hex')}`,
};

let collector: Receiver;
let hook: Receiver;
let service: Deployment;
let job: { id: string };

beforeAll(async () => {
  collector = await startReceiver(answers(200, { 'content-type': 'application/json' }, '{}'));
  hook = await startReceiver(answers(204));
  service = await startDeployment({
    root,
    logs: true,
    env: {
      ...toyModelSettings(root),
      LOG_LEVEL: 'debug',
      WEBHOOK_SECRET: webhookSecret,
      WEBHOOK_ALLOWED_HOSTS: `127.0.0.1:${hook.port}`,
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json',
      OTEL_EXPORTER_OTLP_HEADERS: `x-token=${secrets.collector}`,
      OTEL_BSP_SCHEDULE_DELAY: '200',
    },
  });
  await service.ready();
  const webhook = encodeURIComponent(`${hook.url}/done?token=${secrets.token}`);
  const answer = await fetch(`${service.url}/upscale?webhook=${webhook}`, {
    method: 'POST',
    headers: {
      'content-type': 'image/jpeg',
      'x-request-id': requestId,
      traceparent: `00-${clientSpan.trace}-${clientSpan.span}-01`,
      authorization: `Bearer ${secrets.apiKey}`,
      prefer: 'wait=60',
    },
    body: new Uint8Array(readFileSync(photo('cat-128.jpg'))),
  });
  expect(answer.status).toBe(200);
  job = (await answer.json()) as { id: string };
});
afterAll(async () => {
  await service?.stop();
  await collector?.stop();
  await hook?.stop();
});

const lines = (): Line[] =>
  service
    .logs()
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Line);

test('the lines of every process name the job and the request', async () => {
  const expected = {
    request: 'pisa-serve-api',
    'job started': 'worker',
    'job begun in the device process': 'device',
    'job made in the device process': 'device',
    'job succeeded': 'worker',
    'webhook delivered': 'api',
  };
  await expect
    .poll(() => lines().map(({ msg }) => msg), { timeout: 60_000 })
    .toEqual(expect.arrayContaining(Object.keys(expected)));
  const ours = lines().filter((line) => line.request === requestId);
  for (const msg of Object.keys(expected)) {
    expect(ours.filter((line) => line.msg === msg)).toEqual([
      expect.objectContaining({ job: job.id, request: requestId, trace: clientSpan.trace }),
    ]);
  }
  // Three processes: the device's lines carry its own id, the supervisor writes them.
  const of = (msg: string) => ours.find((line) => line.msg === msg);
  const pids = [
    of('request')?.pid,
    of('job succeeded')?.pid,
    of('job begun in the device process')?.devicePid,
  ];
  expect(new Set(pids).size).toBe(3);
  expect(pids).not.toContain(undefined);
});

test('no secret is in any line', async () => {
  // A refused request and a webhook that cannot be sent are told too, without what they carried.
  await fetch(
    `${service.url}/upscale?webhook=http://me:${secrets.token}@10.0.0.1/x?token=${secrets.token}`,
    {
      method: 'POST',
      headers: { 'content-type': 'image/jpeg', 'x-api-key': secrets.apiKey },
      body: 'no image',
    },
  );
  await expect.poll(() => service.logs()).toContain('request refused');
  const text = service.logs();
  expect(text.length).toBeGreaterThan(2000);
  for (const [name, secret] of Object.entries(secrets)) {
    expect(text.includes(secret), `${name} is in the log`).toBe(false);
  }
});

const attributesOf = ({ attributes }: Span) =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]));

function spansOf(trace: string): Span[] {
  interface Export {
    resourceSpans: {
      resource: { attributes: Span['attributes'] };
      scopeSpans: { spans: Omit<Span, 'service'>[] }[];
    }[];
  }
  return collector.received
    .filter(({ path: where }) => where === '/v1/traces')
    .flatMap(({ body }) => (JSON.parse(body) as Export).resourceSpans)
    .flatMap(({ resource, scopeSpans }) => {
      const service = resource.attributes.find(({ key }) => key === 'service.name')?.value;
      return scopeSpans
        .flatMap(({ spans }) => spans)
        .map((span) => ({ ...span, service: String(service?.stringValue) }));
    })
    .filter(({ traceId }) => traceId === trace);
}

test('one trace leads from the request to the stages and the webhook, across processes', async () => {
  const stages = [
    'decode_image',
    'encode_latents',
    'predict_residual',
    'decode_latents',
    'color_fix',
    'encode_image',
  ];
  const names = [
    'POST /upscale',
    'send upscale',
    'queue',
    'process upscale',
    ...stages,
    'deliver webhook',
  ];
  await expect
    .poll(
      () =>
        spansOf(clientSpan.trace)
          .map(({ name }) => name)
          .sort(),
      { timeout: 60_000 },
    )
    .toEqual([...names].sort());
  const spans = spansOf(clientSpan.trace);
  const of = (name: string): Span => {
    const span = spans.find((one) => one.name === name);
    if (!span) throw new Error(`no span ${name}`);
    return span;
  };
  const parentOf = (name: string) => of(name).parentSpanId;
  expect(parentOf('POST /upscale')).toBe(clientSpan.span);
  expect(parentOf('send upscale')).toBe(of('POST /upscale').spanId);
  for (const name of ['queue', 'process upscale', 'deliver webhook']) {
    expect(parentOf(name)).toBe(of('send upscale').spanId);
  }
  for (const stage of stages) expect(parentOf(stage)).toBe(of('process upscale').spanId);

  expect(of('POST /upscale').service).toBe('pisa-serve-api');
  expect(of('deliver webhook').service).toBe('pisa-serve-api');
  for (const name of ['queue', 'process upscale', ...stages]) {
    expect(of(name).service).toBe('pisa-serve-worker');
  }
  expect(attributesOf(of('POST /upscale'))).toMatchObject({
    'http.route': '/upscale',
    'pisa.job': job.id,
    'pisa.request': requestId,
  });
  expect(attributesOf(of('process upscale'))).toMatchObject({
    'pisa.job': job.id,
    'pisa.device': 'cpu',
    'messaging.system': 'bullmq',
  });
  for (const { startTimeUnixNano, endTimeUnixNano } of spans) {
    expect(BigInt(endTimeUnixNano) >= BigInt(startTimeUnixNano)).toBe(true);
  }
  // What the collector asks for is sent to it, and to nobody else.
  expect(collector.received.every(({ headers }) => headers['x-token'] === secrets.collector)).toBe(
    true,
  );
  expect(JSON.stringify(hook.received)).not.toContain(secrets.collector);
  expect(JSON.stringify(spans)).not.toContain(secrets.token);
});

test('probes and scrapes make no spans', async () => {
  await fetch(`${service.url}/readyz`);
  const before = collector.received.length;
  await fetch(`${service.url}/models`);
  await expect
    .poll(() => collector.received.slice(before).some(({ body }) => body.includes('GET /models')), {
      timeout: 30_000,
    })
    .toBe(true);
  const all = collector.received.map(({ body }) => body).join('\n');
  expect(all).not.toMatch(/readyz|healthz|"GET \/metrics/);
});
