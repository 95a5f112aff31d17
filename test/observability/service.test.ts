/**
 * The real /metrics of an API and a worker: clean for promtool, and every metric, label and value that rules and
 * dashboards name is in it. Then a real Prometheus scrapes them: each panel shows something, no alert fires.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import type { Dashboard, Panel } from '@grafana/grafana-foundation-sdk/dashboard';
import type { Dataquery } from '@grafana/grafana-foundation-sdk/prometheus';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type Deployment, startDeployment, toyModelSettings } from '../support/deployment.ts';
import { answers, type Receiver, startReceiver } from '../support/receiver.ts';
import { root, rules, ruleTests } from './chart-files.ts';
import { faultsOf, recordedSeries } from './check-query.ts';
import { type Series, seriesOf } from './exposition.ts';
import { startPrometheus, type TestPrometheus } from './prometheus.ts';
import { withoutVariables } from './promql.ts';

const dashboardsFolder = path.join(root, 'helm/pisa-serve/dashboards');
const panels = readdirSync(dashboardsFolder).flatMap((name) => {
  const text = readFileSync(path.join(dashboardsFolder, name), 'utf8');
  const all = ((JSON.parse(text) as Dashboard).panels ?? []) as Panel[];
  return all
    .filter(({ type }) => type !== 'row')
    .map(({ title = '', targets = [] }) => ({
      title,
      queries: (targets as Dataquery[]).map(({ expr, legendFormat = '' }) => ({
        expr: withoutVariables(expr),
        legend: legendFormat,
      })),
    }));
});

const photo = new Uint8Array(readFileSync(path.join(root, 'test/photos/rocket-160x106.png')));
const texts: Record<string, string> = {};
let series: Series;
let receiver: Receiver;
let service: Deployment;
let prometheus: TestPrometheus;

async function sendJob(query = ''): Promise<void> {
  const response = await fetch(`${service.url}/upscale?scale=1${query}`, {
    method: 'POST',
    headers: { 'content-type': 'image/png', prefer: 'wait=60' },
    body: photo,
  });
  expect(response.status).toBe(200);
  await response.arrayBuffer();
}

const scrape = async (url: string): Promise<string> => (await fetch(`${url}/metrics`)).text();

beforeAll(async () => {
  receiver = await startReceiver(answers(200));
  service = await startDeployment({
    root,
    env: {
      ...toyModelSettings(root),
      WEBHOOK_SECRET: `whsec_${Buffer.alloc(32, 7).toString('base64')}`,
      WEBHOOK_ALLOWED_HOSTS: `127.0.0.1:${receiver.port}`,
    },
  });
  await service.ready();
  await sendJob();
  await sendJob(`&webhook=${encodeURIComponent(receiver.url)}`);
  await vi.waitFor(() => expect(receiver.received).toHaveLength(1), { timeout: 60_000 });
  const [workerUrl = ''] = service.workerUrls;
  prometheus = await startPrometheus({
    api: [new URL(service.url).host],
    worker: [new URL(workerUrl).host],
  });
  // The device's first sign of life brings its memory.
  await vi.waitFor(
    async () => expect(await scrape(workerUrl)).toMatch(/^pisa_device_resident_memory_bytes\{/m),
    { timeout: 30_000 },
  );
  texts.worker = await scrape(workerUrl);
  texts.api = await scrape(service.url);
}, 300_000);

afterAll(async () => {
  await prometheus?.stop();
  await service?.stop();
  await receiver?.stop();
});

describe('while Redis is well', () => {
  const lint = (input: string) => {
    const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], {
      input,
      encoding: 'utf8',
    });
    return { status, output: stdout + stderr };
  };

  test.each(['api', 'worker'])('the metrics of the %s are as Prometheus wants them', (name) => {
    expect(texts[name]).toContain('\npisa_');
    expect(lint(texts[name] ?? '')).toEqual({ status: 0, output: '' });
  });

  test('planted: a metric without a help text is found', () => {
    const planted = (texts.api ?? '').replace(/^# HELP pisa_queue_jobs .*\n/m, '');
    const { status, output } = lint(planted);
    expect(status).not.toBe(0);
    expect(output).toContain('pisa_queue_jobs no help text');
  });

  test('every panel shows something in a Prometheus that scrapes the service', async () => {
    const empty = new Set(panels);
    const deadline = Date.now() + 150_000;
    while (empty.size > 0 && Date.now() < deadline) {
      // A rate takes an increase between two scrapes.
      await sendJob();
      for (const panel of empty) {
        const values = await Promise.all(panel.queries.map(({ expr }) => prometheus.query(expr)));
        if (values.flat().length > 0) empty.delete(panel);
      }
    }
    expect([...empty].map(({ title }) => title)).toEqual([]);
  });

  test('Prometheus evaluates every rule, and no alert fires', async () => {
    await expect
      .poll(async () => (await prometheus.rules()).filter(({ health }) => health !== 'ok'), {
        timeout: 60_000,
      })
      .toEqual([]);
    const states = await prometheus.rules();
    expect(states).toHaveLength(rules.length);
    expect(states.filter(({ state }) => state === 'firing')).toEqual([]);
  });
});

describe('what rules and dashboards ask for is there', () => {
  beforeAll(async () => {
    // An answer that tells of a fault of ours, and what a scrape tells then.
    await service.processes.redis.end('SIGKILL');
    await vi.waitFor(async () => expect((await fetch(`${service.url}/models`)).status).toBe(503), {
      timeout: 30_000,
    });
    texts.apiWithoutRedis = await scrape(service.url);
    const recorded = rules.flatMap(({ record }) => record ?? []);
    series = new Map([...seriesOf(Object.values(texts)), ...recordedSeries(recorded)]);
  });

  test('without Redis only that is told', () => {
    const lines = (texts.apiWithoutRedis ?? '').split('\n').filter((line) => !/^#/.test(line));
    const known = lines.filter((line) => /^pisa_(redis|queue|webhooks|workers)/.test(line));
    expect(known).toContain('pisa_redis_up 0');
    expect(
      known.filter((line) => /^pisa_(redis_aof|queue_jobs|queue_oldest|workers)/.test(line)),
    ).toEqual([]);
  });

  test.each(rules)('by the rule $name', ({ expr, annotations = {} }) => {
    expect(faultsOf(expr, series)).toEqual([]);
    const said = Object.values(annotations).join(' ');
    for (const [, label = ''] of said.matchAll(/\$labels\.(\w+)/g)) {
      // As if the query grouped by it.
      expect(faultsOf(`sum by (${label}) (${expr})`, series)).toEqual([]);
    }
  });

  test.each(panels)('by the panel $title', ({ queries }) => {
    expect(queries.length).toBeGreaterThan(0);
    for (const { expr, legend } of queries) {
      expect(faultsOf(expr, series)).toEqual([]);
      for (const [, label = ''] of legend.matchAll(/\{\{(\w+)\}\}/g)) {
        expect(faultsOf(`sum by (${label}) (${expr})`, series)).toEqual([]);
      }
    }
  });

  // A test that invents its series proves an alert that never fires.
  test.each(ruleTests)('by the unit test "$name"', ({ input_series, promql_expr_test }) => {
    // What labels an alert has, the test itself shows.
    for (const { expr } of promql_expr_test.filter((one) => !one.expr.includes('ALERTS{'))) {
      expect(faultsOf(expr, series)).toEqual([]);
    }
    for (const one of input_series) {
      // Which code or device fails in an example is free; that there is such a label is not.
      const faults = faultsOf(one.series, series).filter((fault) => !/ never has /.test(fault));
      expect(faults).toEqual([]);
    }
  });

  test.each([
    ['pisa_jobs_stuck > 0', 'no process serves pisa_jobs_stuck'],
    ['pisa_queue_jobs{status="queued"} > 9', 'pisa_queue_jobs has no label status'],
    ['pisa_queue_jobs{state="waiting"} > 9', 'pisa_queue_jobs never has state="waiting"'],
    ['pisa_jobs_total{code=~"internal|oom"} > 9', 'pisa_jobs_total never has code=~"oom"'],
    ['sum by (gpu) (pisa_device_up) == 0', 'nothing in the query has the label gpu'],
    ['namespace:pisa_jobs:rate5m > 9', 'no process serves namespace:pisa_jobs:rate5m'],
  ])('planted: an alert on %s never fires, and that is found', (expr, fault) => {
    expect(faultsOf(expr, series)).toEqual([fault]);
  });

  test('planted: what is not PromQL is found', () => {
    expect(() => faultsOf('sum(rate(pisa_jobs_total[5m])', series)).toThrow('Not PromQL');
  });
});
