/** The rules by themselves: valid, each alert shown to fire and not to, each with a section that says what to do. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
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
