/** The rules by themselves: valid, each alert shown to fire and not to, each with a section that says what to do. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { type ErrorCode, errorCatalogue, errorCodes } from '../../src/errors.ts';
import { waitBuckets } from '../../src/metrics.ts';
import {
  root,
  ruleFiles,
  rules,
  rulesFolder,
  ruleTestFiles,
  ruleTests,
  ruleTestsFolder,
} from './chart-files.ts';

const alerts = rules.filter(({ alert }) => alert !== undefined);

function promtool(...args: string[]): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync('promtool', args, { encoding: 'utf8' });
  return { status, output: stdout + stderr };
}

test('Prometheus takes the rules', () => {
  expect(promtool('check', 'rules', ...ruleFiles)).toMatchObject({ status: 0 });
});

test('every unit test of the rules holds', () => {
  expect(promtool('test', 'rules', ...ruleTestFiles)).toMatchObject({ status: 0 });
});

test('planted: an alert on a metric that does not exist fails its unit test', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'pisa-rules-'));
  try {
    const [ruleCopies, testCopies] = [rulesFolder, ruleTestsFolder].map((from) =>
      path.join(folder, path.relative(root, from)),
    ) as [string, string];
    mkdirSync(ruleCopies, { recursive: true });
    mkdirSync(testCopies, { recursive: true });
    for (const file of ruleFiles) copyFileSync(file, path.join(ruleCopies, path.basename(file)));
    const jobs = path.join(testCopies, 'jobs.yaml');
    copyFileSync(path.join(ruleTestsFolder, 'jobs.yaml'), jobs);
    expect(promtool('test', 'rules', jobs)).toMatchObject({ status: 0 });
    const alertsFile = path.join(ruleCopies, 'alerts.yaml');
    const text = readFileSync(alertsFile, 'utf8');
    writeFileSync(alertsFile, text.replaceAll('pisa_queue_stuck_jobs', 'pisa_stuck_jobs'));
    const { status, output } = promtool('test', 'rules', jobs);
    expect(status).not.toBe(0);
    expect(output).toContain('PisaJobsStuck');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test.each(alerts)('$alert is shown to fire, and not to', ({ alert }) => {
  const looks = ruleTests
    .flatMap((one) => one.promql_expr_test)
    .filter(({ expr }) => expr.includes(`alertname="${alert}"`));
  const fired = looks.filter(({ exp_samples }) => exp_samples.length > 0);
  expect(fired.length).toBeGreaterThan(0);
  for (const { expr } of fired) expect(expr).toContain('alertstate="firing"');
  expect(looks.some(({ exp_samples }) => exp_samples.length === 0)).toBe(true);
});

test.each(alerts)(
  '$alert says what is wrong, what to do and where to read on',
  ({ alert = '', annotations = {} }) => {
    const { summary = '', description = '', runbook = '' } = annotations;
    expect(summary.length).toBeGreaterThan(10);
    expect(description).toMatch(/\.$/);
    const [page = '', anchor] = runbook.split('#');
    expect(anchor).toBe(alert.toLowerCase());
    expect(readFileSync(path.join(root, page), 'utf8')).toContain(`\n### ${alert}\n`);
  },
);

test('PisaJobsFailing counts every fault of ours that a job can end with', () => {
  // Answers to requests, and faults that end a process or a command at its start.
  const neverOfJobs: ErrorCode[] = [
    ...(['not_ready', 'redis_unavailable', 'too_many_fetches', 'too_many_uploads'] as const),
    ...(['shutting_down', 'invalid_config', 'bundle_not_added'] as const),
    ...(['invalid_bundle', 'device_unavailable'] as const),
  ];
  const ours = errorCodes.filter(
    (code) => errorCatalogue[code].status >= 500 && !neverOfJobs.includes(code),
  );
  const { expr = '' } = rules.find(({ name }) => name.includes('jobs_failed_by_us')) ?? {};
  const [, codes = ''] = /code=~"([^"]+)"/.exec(expr) ?? [];
  // The API takes the names of bundles that it knows, so a worker without one is no fault of the client.
  expect(codes.split('|').sort()).toEqual([...ours, 'unknown_model'].sort());
});

test('named a namespace, as by the chart, PisaApiAbsent fires beside another deployment', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'pisa-rules-'));
  try {
    const text = readFileSync(path.join(rulesFolder, 'alerts.yaml'), 'utf8');
    const named = text.replaceAll('namespace=~".*"', 'namespace="prod"');
    writeFileSync(path.join(folder, 'alerts.yaml'), named);
    const other = {
      series: 'pisa_redis_up{namespace="other",instance="api-0"}',
      values: '1x30',
    };
    const fires = {
      expr: 'count by (namespace) (ALERTS{alertname="PisaApiAbsent",alertstate="firing"})',
      eval_time: '15m',
      exp_samples: [{ labels: '{namespace="prod"}', value: 1 }],
    };
    const one = { interval: '1m', input_series: [other], promql_expr_test: [fires] };
    const file = path.join(folder, 'test.yaml');
    writeFileSync(
      file,
      JSON.stringify({ rule_files: ['alerts.yaml'], evaluation_interval: '1m', tests: [one] }),
    );
    expect(promtool('test', 'rules', file)).toMatchObject({ status: 0 });
    writeFileSync(path.join(folder, 'alerts.yaml'), text);
    expect(promtool('test', 'rules', file)).toMatchObject({ status: 1 });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('the target of waits is a bucket, and so is every one that the chart takes', () => {
  const schema = JSON.parse(
    readFileSync(path.join(root, 'helm/pisa-serve/values.schema.json'), 'utf8'),
  ) as { properties: { monitoring: { properties: Record<string, { enum?: number[] }> } } };
  const targets = schema.properties.monitoring.properties.queueWaitTargetSeconds?.enum ?? [];
  expect(targets).toEqual(waitBuckets.filter((bound) => bound >= 1 && Number.isInteger(bound)));
  const bounds = rules.flatMap(({ expr }) => [...expr.matchAll(/le=~"([^"]+)"/g)]);
  expect(bounds.length).toBeGreaterThan(5);
  for (const [, bound] of bounds) expect(bound).toBe('30([.]0)?');
});
