/** What the chart runs in its pods, run here: Redis with the arguments of its pod, and the script of `helm test`. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { Redis } from 'ioredis';
import { expect, test } from 'vitest';
import { startService } from '../e2e/service.ts';
import { freePort } from '../support/processes.ts';
import { render } from './helm.ts';

const run = promisify(execFile);

test('Redis starts with the arguments of its pod: a password, an append-only file, nothing evicted', async () => {
  const { args } = firstContainer(
    (await render('--show-only', 'templates/redis.yaml')).find(({ kind }) => kind === 'StatefulSet')
      ?.spec.template.spec,
  );
  const folder = mkdtempSync(path.join(tmpdir(), 'pisa-chart-redis-'));
  const port = await freePort();
  const own = args.map((argument) =>
    argument.replace(/^\/data$/, folder).replace('$(REDIS_PASSWORD)', 'secret'),
  );
  const server = spawn('redis-server', [...own, '--port', `${port}`, '--bind', '127.0.0.1'], {
    stdio: 'ignore',
  });
  const exited = once(server, 'exit');
  const client = new Redis({ port, password: 'secret', maxRetriesPerRequest: null });
  client.on('error', () => {});
  try {
    const names = ['appendonly', 'auto-aof-rewrite-percentage', 'maxmemory-policy', 'save', 'dir'];
    const settings = await client.config('GET', ...(names as ['appendonly']));
    expect(Object.fromEntries(pairs(settings as string[]))).toEqual({
      appendonly: 'yes',
      'auto-aof-rewrite-percentage': '50',
      'maxmemory-policy': 'noeviction',
      save: '',
      dir: folder,
    });
    const stranger = new Redis({ port });
    stranger.on('error', () => {});
    await expect(stranger.get('key')).rejects.toThrow(/NOAUTH/);
    stranger.disconnect();
  } finally {
    client.disconnect();
    server.kill('SIGKILL');
    await exited;
    rmSync(folder, { recursive: true, force: true });
  }
});

const pairs = (list: string[]): [string, string][] =>
  list.flatMap((name, index) => (index % 2 === 0 ? [[name, list[index + 1] ?? '']] : []));

interface Container {
  command: string[];
  args: string[];
}

function firstContainer(pod: { containers: Container[] } | undefined): Container {
  const [container] = pod?.containers ?? [];
  if (!container) throw new Error('the chart makes no such pod');
  return container;
}

test('the script of `helm test` passes on a service that works, and fails where there is none', async () => {
  const [pod] = await render('--show-only', 'templates/tests/upscale.yaml');
  const { command, args } = firstContainer(pod?.spec);
  expect(command).toEqual(['node', '-e']);
  const service = await startService();
  try {
    const against = (url: string) =>
      run(process.execPath, ['-e', args[0] ?? ''], { env: { ...process.env, API_URL: url } });
    expect((await against(service.url)).stdout).toContain('upscaled 16 × 16 pixels to 64 × 64');
    await expect(against(`${service.url}/nothing`)).rejects.toThrow(/answered 404/);
  } finally {
    await service.stop();
  }
});
