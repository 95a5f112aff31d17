/** The CPU image, built from docker/Dockerfile: what is in it, and that it serves a photo without any rights. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { descendants, procFile } from '../support/processes.ts';
import { type ComposeService, composeServices } from './compose.ts';
import { differenceFromCommandLine, statusOf, until, untilReady } from './photo.ts';
import {
  changedFiles,
  hardened,
  isHealthy,
  pidOf,
  podman,
  remove,
  runOnce,
  start,
  stop,
  writablePlaces,
} from './podman.ts';
import { fromEnvironment } from './tools.ts';

const image = fromEnvironment('PISA_IMAGE');
const api = 'http://127.0.0.1:8080';

/** Of every process of a container: no root, no capability, no way to get one, jemalloc, a root that is read-only. */
async function expectNoRights(name: string): Promise<void> {
  const first = await pidOf(name);
  expect(procFile(first, 'cmdline')).toMatch(/^tini\0/);
  const processes = descendants(first);
  expect(processes.length).toBeGreaterThan(0);
  for (const pid of [first, ...processes]) {
    const status = procFile(pid, 'status');
    expect(status).toMatch(/^Uid:\t10001\t10001\t10001\t10001$/m);
    expect(status).toMatch(/^Gid:\t10001\t10001\t10001\t10001$/m);
    expect(status).toMatch(/^CapEff:\t0+$/m);
    expect(status).toMatch(/^CapBnd:\t0+$/m);
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    expect(procFile(pid, 'maps')).toContain('libjemalloc.so.2');
    expect(procFile(pid, 'mounts')).toMatch(/^\S+ \/ \S+ ro,/m);
  }
}

describe('what is in it', () => {
  const shell = (script: string) =>
    runOnce({ ...hardened, image, entrypoint: ['sh', '-c', script] });

  test('user, entry point, health check and labels', async () => {
    const { stdout } = await podman('image', 'inspect', image);
    const [{ Config, Healthcheck }] = JSON.parse(stdout);
    expect(Config.User).toBe('10001:10001');
    expect(Config.Entrypoint).toEqual(['tini', '--', 'node', 'dist/cli.js']);
    expect(Healthcheck.Test).toEqual(['CMD', 'node', 'docker/healthcheck.mjs']);
    for (const label of ['title', 'licenses', 'version', 'revision', 'created', 'base.name']) {
      expect(Config.Labels[`org.opencontainers.image.${label}`]).toBeTruthy();
    }
  });

  test("the build's tools, sources and other platforms' libraries stay out", async () => {
    const { stdout } = await shell('ls . node_modules node_modules/onnxruntime-node/bin/napi-v6');
    const names = stdout.split('\n');
    expect(names).toEqual(
      expect.arrayContaining(['dist', 'models', 'web', 'fastify', 'sharp', 'linux']),
    );
    for (const name of ['src', 'typescript', 'vitest', '@biomejs', 'darwin', 'win32']) {
      expect(names).not.toContain(name);
    }
  });

  test('what it is made of can be listed', async () => {
    const { stdout } = await shell('dpkg-query -W nodejs && grep -c integrity package-lock.json');
    expect(stdout).toMatch(/^nodejs\t\d+\.\d+.*\n[1-9]\d+\n$/);
  });

  test('nothing of /app belongs to the user that runs it', async () => {
    expect(await shell('find /app ! -user root')).toMatchObject({ code: 0, stdout: '' });
  });
});

describe('docker run, as docs/docker.md has it', () => {
  const serve: ComposeService = { ...hardened, image, environment: { OPEN_ACCESS: 'anywhere' } };
  afterEach(() => remove('serve', 'writable', 'nobody'));

  test('it does not serve other machines without keys, unless told to', async () => {
    const { code, stderr } = await runOnce({ ...hardened, image });
    expect(code).toBe(1);
    expect(stderr).toMatch(/Set API_KEYS_FILE/);
  });

  test('the argument is a command of pisa-serve', async () => {
    const { code, stdout } = await runOnce({ ...hardened, image, command: ['models'] });
    expect(code).toBe(0);
    expect(stdout).toContain('pisa-tiny');
  });

  test('serve, alone with its private Redis, serves a photo and ends with 0', async () => {
    await start('serve', {
      ...serve,
      stop_grace_period: '40s',
      volumes: [{ type: 'volume', source: 'pisa-data', target: '/data' }],
    });
    await untilReady(api);
    expect(await differenceFromCommandLine(api)).toBeLessThanOrEqual(1);
    await until(() => isHealthy('serve'));
    await expectNoRights('serve');
    expect(await writablePlaces('serve', ['/data', '/tmp'])).toEqual(['/data', '/tmp']);
    expect(await changedFiles('serve')).toEqual([]);
    expect(await stop('serve')).toBe(0);
  });

  test('what is checked here would find a root that is not read-only', async () => {
    await start('writable', {
      ...serve,
      read_only: false,
      entrypoint: ['sleep'],
      command: ['infinity'],
    });
    expect(await writablePlaces('writable', ['/data', '/tmp'])).toContain('/var/tmp');
    await podman('exec', 'writable', 'touch', '/var/tmp/planted');
    expect(await changedFiles('writable')).toContain('A /var/tmp/planted');
  });

  test('the health check fails, and says why, where nothing answers', async () => {
    await start('nobody', { ...serve, entrypoint: ['sleep'], command: ['infinity'] });
    expect(await isHealthy('nobody')).toBe(false);
    const { code, stderr } = await podman('exec', 'nobody', 'node', 'docker/healthcheck.mjs');
    expect(code).toBe(1);
    expect(stderr).toMatch(/ECONNREFUSED 127\.0\.0\.1:8080/);
  });
});

describe('api, worker and redis, as compose.yaml has them', () => {
  const names = ['redis', 'api', 'worker'] as const;
  let services: Record<string, ComposeService>;

  beforeAll(async () => {
    services = await composeServices();
    expect(Object.keys(services).sort()).toEqual([...names].sort());
    for (const name of names) {
      await start(name, { ...(services[name] as ComposeService), image });
      // `depends_on` of compose.yaml.
      if (name === 'redis') await until(() => isHealthy('redis'));
    }
    await untilReady(api);
  });
  afterAll(() => remove(...names));

  test('a photo comes back as the command line makes it', async () => {
    expect(await differenceFromCommandLine(api)).toBeLessThanOrEqual(1);
  });

  test('Redis keeps what it has on a volume and never drops it', async () => {
    const { stdout } = await podman(
      ...['exec', 'redis', 'redis-cli', 'CONFIG', 'GET', 'appendonly', 'maxmemory-policy', 'save'],
    );
    expect(stdout.trim().split('\n')).toEqual(
      expect.arrayContaining(['appendonly', 'yes', 'maxmemory-policy', 'noeviction']),
    );
    const files = await podman('exec', 'redis', 'ls', '/data/appendonlydir');
    expect(files.stdout).toContain('appendonly.aof.manifest');
  });

  test("the worker's probes answer", async () => {
    expect(await statusOf('http://127.0.0.1:8081/readyz')).toBe(200);
  });

  test.each(names)('%s is healthy', async (name) => {
    // As an engine does it: again and again, since a check may take longer than its limit on a busy machine.
    await until(() => isHealthy(name));
  });

  test.each(names)('%s has no rights', (name) => expectNoRights(name));

  test.each(names)('%s writes to its volumes and /tmp only', async (name) => {
    const { tmpfs = [], volumes = [] } = services[name] as ComposeService;
    const writable = volumes.filter(({ read_only }) => !read_only);
    const allowed = [...tmpfs, ...writable.map(({ target }) => target)];
    expect(await writablePlaces(name, allowed)).toEqual(allowed.sort());
    expect(await changedFiles(name)).toEqual([]);
  });

  test.each(['worker', 'api', 'redis'])('SIGTERM ends %s with 0', async (name) => {
    expect(await stop(name)).toBe(0);
  });
});
