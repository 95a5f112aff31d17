/** The user's first minute: `serve`, the printed curl line, the same image from the command line, Ctrl-C. */
import { execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import sharp, { type Sharp } from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { descendants, isAlive, procFile } from '../support/processes.ts';
import { cli, photo, type RunningService, startService } from './service.ts';

const run = promisify(execFile);
let service: RunningService;
let scratch: string;

beforeAll(async () => {
  scratch = mkdtempSync(path.join(tmpdir(), 'pisa-first-minute-'));
  service = await startService();
});
afterAll(async () => {
  await service.stop();
  rmSync(scratch, { recursive: true, force: true });
});

const upscaleBytes = async (
  image: Buffer,
  query = '',
  headers: Record<string, string> = {},
): Promise<Response> =>
  fetch(`${service.url}/upscale${query}`, {
    method: 'POST',
    headers: { accept: 'image/png', 'content-type': 'image/jpeg', ...headers },
    body: new Uint8Array(image),
  });

test('the printed curl line works as printed', async () => {
  const line = service
    .stdout()
    .split('\n')
    .find((text) => text.trim().startsWith('curl '));
  expect(line).toBeDefined();
  await run('bash', ['-c', line ?? ''], { cwd: scratch });
  const [file] = readdirSync(scratch);
  const result = await sharp(path.join(scratch, file ?? '')).metadata();
  expect(result).toMatchObject({ format: 'png', width: 512, height: 512 });
});

test('where keys are asked for, it works with one', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'pisa-first-key-'));
  const file = path.join(folder, 'keys.json');
  const { stdout } = await run(process.execPath, [cli, 'keys', 'create', 'me', '--file', file]);
  const guarded = await startService({ env: { API_KEYS_FILE: file } });
  try {
    const printed = guarded.stdout();
    expect(printed).toContain('pisa-serve keys create');
    const line = printed.split('\n').find((text) => text.trim().startsWith('curl ')) ?? '';
    const env = { ...process.env, KEY: stdout.trim() };
    await run('bash', ['-c', line], { cwd: folder, env });
    expect(await sharp(path.join(folder, 'cat-512.png')).metadata()).toMatchObject({ width: 512 });
  } finally {
    await guarded.stop();
    rmSync(folder, { recursive: true, force: true });
  }
});

test('the service and the command line give the same pixels', async () => {
  const response = await upscaleBytes(
    readFileSync(photo('coffee-150x100.jpg')),
    '?pix=0.9&sem=1.2',
  );
  expect(response.status).toBe(200);
  const served = Buffer.from(await response.arrayBuffer());

  const output = path.join(scratch, 'cli.png');
  await run(process.execPath, [
    ...[cli, 'upscale', photo('coffee-150x100.jpg'), output],
    ...['--pix', '0.9', '--sem', '1.2'],
  ]);
  const fromCli = readFileSync(output);
  const pixels = (image: Buffer) => sharp(image).raw().toBuffer({ resolveWithObject: true });
  const [a, b] = await Promise.all([pixels(served), pixels(fromCli)]);
  expect(a.info).toMatchObject({ width: 600, height: 400, channels: 3 });
  expect(a.data.equals(b.data)).toBe(true);
});

test('the result is better than what bicubic makes of the degraded photo', async () => {
  // The cat is a quarter-size of a sharper photo that the service never sees: compare edge energy.
  const lowRes = readFileSync(photo('cat-128.jpg'));
  const served = Buffer.from(await (await upscaleBytes(lowRes)).arrayBuffer());
  const bicubic = await sharp(lowRes).resize(512, 512, { kernel: 'cubic' }).png().toBuffer();
  const sharpness = async (image: Buffer) => (await sharp(image).stats()).sharpness;
  expect(await sharpness(served)).toBeGreaterThan(1.1 * (await sharpness(bicubic)));
});

test('identical requests give identical bytes', async () => {
  const image = readFileSync(photo('portrait-96x128.jpg'));
  const anew = { 'cache-control': 'no-cache' };
  const both = await Promise.all([upscaleBytes(image, '', anew), upscaleBytes(image, '', anew)]);
  const [first, second] = await Promise.all(
    both.map(async (response) => Buffer.from(await response.arrayBuffer())),
  );
  expect(first?.length).toBeGreaterThan(10_000);
  expect(first?.equals(second ?? Buffer.alloc(0))).toBe(true);
});

test('each of the eight EXIF orientations gives the same upright result', async () => {
  const upright = await sharp(photo('portrait-96x128.jpg')).png().toBuffer();
  // To be shown upright, the stored pixels are the inverse of what the orientation tag asks for.
  // (sharp mirrors before it rotates.)
  const stored: Record<number, (image: Sharp) => Sharp> = {
    1: (image) => image,
    2: (image) => image.flop(),
    3: (image) => image.rotate(180),
    4: (image) => image.flip(),
    5: (image) => image.flop().rotate(270),
    6: (image) => image.rotate(270),
    7: (image) => image.flop().rotate(90),
    8: (image) => image.rotate(90),
  };
  const results = await Promise.all(
    Object.entries(stored).map(async ([orientation, turn]) => {
      const turned = await turn(sharp(upright)).png().toBuffer();
      const tagged = await sharp(turned)
        .withMetadata({ orientation: Number(orientation) })
        .png()
        .toBuffer();
      const response = await upscaleBytes(tagged, '?sem=0.5', { 'content-type': 'image/png' });
      expect(response.status).toBe(200);
      return sharp(Buffer.from(await response.arrayBuffer()))
        .raw()
        .toBuffer();
    }),
  );
  for (const result of results) expect(result.equals(results[0] ?? Buffer.alloc(0))).toBe(true);
});

test('a second service on the same data folder says so and ends', async () => {
  const second = spawnSync(process.execPath, [cli, 'serve'], {
    env: { ...process.env, REDIS_URL: '', PORT: '0', DATA_DIR: service.dataDir },
    encoding: 'utf8',
  });
  expect(second.status).toBe(1);
  expect(second.stderr).toContain('Another pisa-serve runs on the data folder');
});

test('a taken port is one clear sentence', () => {
  const port = new URL(service.url).port;
  const dataDir = mkdtempSync(path.join(tmpdir(), 'pisa-port-'));
  const second = spawnSync(process.execPath, [cli, 'serve'], {
    env: { ...process.env, REDIS_URL: '', PORT: port, DATA_DIR: dataDir },
    encoding: 'utf8',
  });
  rmSync(dataDir, { recursive: true, force: true });
  expect(second.status).toBe(1);
  expect(second.stderr).toMatch(new RegExp(`port ${port} .*PORT`, 'i'));
});

test('a faulty setting is one clear sentence', () => {
  const started = spawnSync(process.execPath, [cli, 'serve'], {
    env: { ...process.env, PORT: 'eighty' },
    encoding: 'utf8',
  });
  expect(started.status).toBe(1);
  expect(started.stderr).toContain('Expected a whole number from 0 to 65535 for PORT');
});

test('a device that is not there is a clear start-up error, never a fall-back', async () => {
  const dataDir = mkdtempSync(path.join(tmpdir(), 'pisa-cuda-'));
  const started = spawn(process.execPath, [cli, 'serve'], {
    env: { ...process.env, REDIS_URL: '', PORT: '0', DATA_DIR: dataDir, DEVICES: 'cuda:0' },
  });
  let text = '';
  started.stderr.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  const [code] = await once(started, 'exit');
  rmSync(dataDir, { recursive: true, force: true });
  expect(code).toBe(1);
  expect(text).toMatch(/cuda:0/);
  expect(text).toMatch(/docs\/devices\.md|DEVICES=cpu/);
});

test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
  '%s ends everything, with a job running',
  async (signal) => {
    const own = await startService();
    const children = descendants(own.pid);
    expect(children.length).toBeGreaterThanOrEqual(2); // redis-server and the device process
    const large = await sharp(photo('cat-128.jpg')).resize(400, 400).jpeg().toBuffer();
    const accepted = await fetch(`${own.url}/upscale`, {
      method: 'POST',
      headers: { 'content-type': 'image/jpeg' },
      body: new Uint8Array(large),
    });
    expect(accepted.status).toBe(202);
    const exited = once(own.process, 'exit');
    // A terminal's reach the whole foreground group, so the device process hears them too.
    const ofTerminal = children.filter((pid) => groupOf(pid) === groupOf(own.pid));
    for (const pid of signal === 'SIGTERM' ? [] : ofTerminal) process.kill(pid, signal);
    own.process.kill(signal);
    const [code] = await exited;
    expect(code).toBe(0);
    expect(children.filter(isAlive)).toEqual([]);
    expect(existsSync(path.join(own.dataDir, 'redis/redis.sock'))).toBe(false);

    // What was accepted is not lost: the next start on the same folder finishes it.
    const { id } = (await accepted.json()) as { id: string };
    const again = await startService({ dataDir: own.dataDir });
    const waited = await fetch(`${again.url}/upscale/${id}`);
    expect(waited.status).toBe(200);
    for (;;) {
      const job = (await (await fetch(`${again.url}/upscale/${id}`)).json()) as { status: string };
      if (job.status === 'succeeded') break;
      expect(['queued', 'processing']).toContain(job.status);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await again.stop();
  },
);

test.each([
  ['killed outright', 'SIGKILL', [null, 'SIGKILL']],
  ['ended by a second Ctrl-C', 'SIGINT', [1, null]],
] as const)('a service %s leaves no orphan process', async (_name, signal, end) => {
  const own = await startService();
  const children = descendants(own.pid);
  const exited = once(own.process, 'exit');
  // Stands still, so that the end in order does not come before the second signal.
  for (const pid of children.filter(isRedis)) process.kill(pid, 'SIGSTOP');
  if (signal === 'SIGINT') {
    own.process.kill(signal);
    await expect.poll(() => own.stderr()).toContain('shutting down');
  }
  own.process.kill(signal);
  expect(await exited).toEqual(end);
  for (const pid of children.filter(isRedis)) process.kill(pid, 'SIGCONT');
  await expect.poll(() => children.filter(isAlive)).toEqual([]);
  await own.stop();
});

function isRedis(pid: number): boolean {
  return procFile(pid, 'cmdline').includes('redis-server');
}

/** Its process group: the third number behind the name, which is in parentheses. */
function groupOf(pid: number): string | undefined {
  return procFile(pid, 'stat')
    .replace(/^.*\) /s, '')
    .split(' ')[2];
}

test('a Node.js that is too old is one clear sentence', () => {
  const old = `Object.defineProperty(process, 'versions', { value: { node: '20.19.1' } });`;
  const pretend = ['--import', `data:text/javascript,${encodeURIComponent(old)}`];
  const started = spawnSync(process.execPath, [...pretend, cli, '--help'], { encoding: 'utf8' });
  expect(started).toMatchObject({ status: 1, stdout: '' });
  expect(started.stderr).toMatch(/^pisa-serve: Node\.js \S+ or newer is needed, .*\n$/);
});

test('help reads well', async () => {
  const { stdout } = await run(process.execPath, [cli, '--help']);
  for (const word of ['serve', 'api', 'worker', 'upscale', 'models', 'Examples:']) {
    expect(stdout).toContain(word);
  }
});

test('models lists the bundle, and verify finds it whole', async () => {
  const listed = await run(process.execPath, [cli, 'models']);
  expect(listed.stdout).toMatch(/\* pisa-tiny.*\n +sha256 [0-9a-f]{64}\n/);
  const verified = await run(process.execPath, [cli, 'models', 'verify']);
  expect(verified.stdout).toContain('pisa-tiny: ok');
});

test('the command line takes folders and globs, goes on after a bad file, and counts it', async () => {
  const folder = mkdtempSync(path.join(scratch, 'in-'));
  writeFileSync(
    path.join(folder, 'good.jpg'),
    await sharp(photo('cat-128.jpg')).resize(40, 30).jpeg().toBuffer(),
  );
  writeFileSync(path.join(folder, 'bad.jpg'), 'not a photo');
  const out = path.join(scratch, 'out');
  const result = spawnSync(
    process.execPath,
    [cli, 'upscale', folder, out, '--format', 'webp', '--scale', '2'],
    {
      encoding: 'utf8',
    },
  );
  expect(result.status).toBe(1);
  expect(result.stderr).toMatch(/bad\.jpg: /);
  const made = await sharp(path.join(out, 'good.webp')).metadata();
  expect(made).toMatchObject({ format: 'webp', width: 80, height: 60 });

  const again = spawnSync(
    process.execPath,
    [cli, 'upscale', path.join(folder, 'go*.jpg'), out, '--format', 'webp'],
    {
      encoding: 'utf8',
    },
  );
  expect(again.status).toBe(1);
  expect(again.stderr).toContain('--force');
});
