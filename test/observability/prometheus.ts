/** A real Prometheus for one test file: scrapes every second, with the rules of the chart. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { stringify } from 'yaml';
import { freePort } from '../support/processes.ts';
import { ruleFiles } from './chart-files.ts';

interface Answer<T> {
  status: string;
  error?: string;
  data: T;
}

interface RuleState {
  name: string;
  type: 'alerting' | 'recording';
  health: string;
  state?: string;
  lastError?: string;
}

export interface TestPrometheus {
  /** Finite values of an instant query. */
  query(expr: string): Promise<number[]>;
  rules(): Promise<RuleState[]>;
  stop(): Promise<void>;
}

const startLimitMs = 60_000;

/** @param targets by job name: addresses such as 127.0.0.1:8080 */
export async function startPrometheus(targets: Record<string, string[]>): Promise<TestPrometheus> {
  const folder = mkdtempSync(path.join(tmpdir(), 'pisa-prometheus-'));
  const config = path.join(folder, 'prometheus.yaml');
  const port = await freePort();
  writeFileSync(
    config,
    stringify({
      global: { scrape_interval: '1s', evaluation_interval: '1s' },
      rule_files: ruleFiles,
      scrape_configs: Object.entries(targets).map(([name, addresses]) => ({
        job_name: name,
        static_configs: [{ targets: addresses, labels: { namespace: 'demo' } }],
      })),
    }),
  );
  const server = spawn(
    'prometheus',
    [
      ...['--config.file', config, '--storage.tsdb.path', path.join(folder, 'data')],
      ...['--web.listen-address', `127.0.0.1:${port}`, '--log.level', 'error'],
    ],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  // A test run that is killed must not leave its Prometheus behind.
  const endWithUs = () => server.kill('SIGKILL');
  process.once('exit', endWithUs);
  const get = async <T>(where: string): Promise<T> => {
    const response = await fetch(`http://127.0.0.1:${port}${where}`);
    const { status, error, data } = (await response.json()) as Answer<T>;
    if (status !== 'success') throw new Error(`${where}: ${error}`);
    return data;
  };
  await untilReady(port, server);
  return {
    query: async (expr) => {
      const { result } = await get<{ result: { value: [number, string] }[] }>(
        `/api/v1/query?query=${encodeURIComponent(expr)}`,
      );
      return result.map(({ value }) => Number(value[1])).filter(Number.isFinite);
    },
    rules: async () => {
      const { groups } = await get<{ groups: { rules: RuleState[] }[] }>('/api/v1/rules');
      return groups.flatMap((group) => group.rules);
    },
    stop: async () => {
      process.off('exit', endWithUs);
      if (server.exitCode === null) {
        const exited = once(server, 'exit');
        server.kill('SIGTERM');
        await exited;
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

async function untilReady(port: number, server: ChildProcess): Promise<void> {
  const deadline = Date.now() + startLimitMs;
  while (Date.now() < deadline && server.exitCode === null) {
    const ready = await fetch(`http://127.0.0.1:${port}/-/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (ready) return;
    await delay(100);
  }
  server.kill('SIGKILL');
  throw new Error('Prometheus did not start; what it says is above.');
}
