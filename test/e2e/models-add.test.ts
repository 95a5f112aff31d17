/** `pisa-serve models add` from outside: folders, a real HTTP server, broken downloads, every fault. */
import { spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as nextLook } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { cli, root } from './service.ts';

const weightsBytes = 3_000_000;
const weights = 'unet.onnx.data';

let folder: string;
/** The bundle as it is offered: the identity one, with a file of weights beside its UNet. */
let offered: string;
let modelsDir: string;
let server: Server;
let url: string;
/** Requests that the server saw, as `name range`. */
let seen: string[];
/** Answers instead of the server where it returns true. */
let misbehave: (name: string, request: IncomingMessage, response: ServerResponse) => boolean;

// biome-ignore lint/suspicious/noExplicitAny: the tests write what no type would allow
function changeManifest(bundle: string, change: (manifest: any) => void): void {
  const file = path.join(bundle, 'manifest.json');
  const manifest = JSON.parse(readFileSync(file, 'utf8'));
  change(manifest);
  writeFileSync(file, JSON.stringify(manifest, null, 2));
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-add-'));
  offered = path.join(folder, 'offered/identity');
  cpSync(path.join(root, 'test/fixtures/bundles/identity'), offered, { recursive: true });
  const bytes = randomBytes(weightsBytes);
  writeFileSync(path.join(offered, weights), bytes);
  changeManifest(offered, ({ graphs }) => {
    graphs.unet.externalData = [{ file: weights, sha256: sha256(bytes), bytes: weightsBytes }];
  });
});
afterAll(() => rmSync(folder, { recursive: true }));

beforeEach(async () => {
  modelsDir = mkdtempSync(path.join(folder, 'models-'));
  seen = [];
  misbehave = () => false;
  server = createServer((request, response) => {
    const name = path.basename(request.url ?? '');
    seen.push(`${name} ${request.headers.range ?? 'whole'}`);
    if (misbehave(name, request, response)) return;
    send(name, request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/bundles/identity`;
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

/** What a static file server does, ranges included. */
function send(name: string, request: IncomingMessage, response: ServerResponse): void {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path.join(offered, name));
  } catch {
    response.writeHead(404).end();
    return;
  }
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const headers = { 'content-length': bytes.length - from };
  if (from === 0) response.writeHead(200, headers);
  else {
    const range = `bytes ${from}-${bytes.length - 1}/${bytes.length}`;
    response.writeHead(206, { ...headers, 'content-range': range });
  }
  response.end(bytes.subarray(from));
}

interface Outcome {
  code: number | null;
  out: string;
  err: string;
}

function start(args: string[], shell = '') {
  const command = [process.execPath, cli, 'models', ...args].map((word) => `'${word}'`).join(' ');
  const child = spawn('bash', ['-c', `${shell} exec ${command}`], {
    env: { ...process.env, MODELS_DIR: modelsDir },
  });
  const outcome: Outcome = { code: null, out: '', err: '' };
  child.stdout.on('data', (text) => {
    outcome.out += text;
  });
  child.stderr.on('data', (text) => {
    outcome.err += text;
  });
  const ended = new Promise<Outcome>((resolve) => {
    child.on('close', (code) => resolve({ ...outcome, code }));
  });
  return { child, ended };
}

const run = (args: string[], shell = ''): Promise<Outcome> => start(args, shell).ended;

/** One line that begins with our name, and nothing in MODELS_DIR but what `keeps`. */
function expectRefusal({ code, err }: Outcome, reason: RegExp, keeps: string[] = []): void {
  expect(err.trimEnd().split('\n')).toHaveLength(1);
  expect(err).toMatch(/^pisa-serve: /);
  expect(err).toMatch(reason);
  expect(code).toBe(1);
  expect(visible()).toEqual(keeps);
}

const visible = (): string[] => readdirSync(modelsDir).filter((name) => !name.startsWith('.'));

function expectWhole(): void {
  expect(readdirSync(modelsDir)).toEqual(['identity']);
  const target = path.join(modelsDir, 'identity');
  expect(readdirSync(target).sort()).toEqual(readdirSync(offered).sort());
  for (const file of readdirSync(offered)) {
    const [ours, theirs] = [target, offered].map((dir) => readFileSync(path.join(dir, file)));
    expect(ours?.equals(theirs as Buffer), file).toBe(true);
  }
}

describe('a bundle that is added', () => {
  test('from a folder is whole, is listed with all its files, and can be removed', async () => {
    const added = await run(['add', offered]);
    expect(added).toMatchObject({ code: 0, err: '' });
    expect(added.out).toMatch(/identity 1\.0\.0 is in .* sha256 [0-9a-f]{64}/);
    expectWhole();
    expect((await run(['verify'])).out).toBe('identity: ok\n');
    // 3.0 MB are the weights beside the graph.
    expect((await run([])).out).toMatch(/identity 1\.0\.0 {2}×4 {2}3\.0 MB/);
    expect((await run(['add', offered])).out).toMatch(/was already in/);
    expect(await run(['remove', 'identity'])).toMatchObject({ code: 0 });
    expect(readdirSync(modelsDir)).toEqual([]);
    expectRefusal(await run(['remove', 'identity']), /has no bundle "identity"/);
  });

  test('from a URL is whole, and what it is can be demanded', async () => {
    const wrong = await run(['add', url, '--sha256', 'ab'.repeat(32)]);
    expectRefusal(wrong, /is the bundle identity 1\.0\.0 with sha256 ([0-9a-f]{64}), not the one/);
    const right = /sha256 ([0-9a-f]{64})/.exec(wrong.err)?.[1] ?? '';
    expect(await run(['add', `${url}/`, '--sha256', right])).toMatchObject({ code: 0, err: '' });
    expectWhole();
  });

  test('by redirects, and by a server that knows no ranges', async () => {
    misbehave = (name, request, response) => {
      if (request.url?.startsWith('/bundles/')) {
        response.writeHead(302, { location: `/moved/${name}` }).end();
        return true;
      }
      delete request.headers.range;
      return false;
    };
    expect(await run(['add', url])).toMatchObject({ code: 0 });
    expectWhole();
  });
});

describe('a download that breaks off', () => {
  /** Sends some of the weights, then nothing (`stall`) or the end of the connection. */
  const breakAfter = (bytes: number, stall: boolean) => {
    misbehave = (name, request, response) => {
      if (name !== weights || request.headers.range) return false;
      response.writeHead(200, { 'content-length': weightsBytes });
      response.write(readFileSync(path.join(offered, weights)).subarray(0, bytes), () => {
        if (!stall) setTimeout(() => response.destroy(), 200);
      });
      return true;
    };
  };

  test('goes on where it ended, in the same run', async () => {
    breakAfter(1_000_000, false);
    expect(await run(['add', url])).toMatchObject({ code: 0, err: '' });
    expect(seen.filter((line) => line.startsWith(weights))).toEqual([
      `${weights} whole`,
      expect.stringMatching(/ bytes=\d{6,}-$/),
    ]);
    expectWhole();
  });

  test('because the process was killed leaves nothing that is loaded, and goes on', async () => {
    breakAfter(1_000_000, true);
    const { child, ended } = start(['add', url]);
    const partial = path.join(modelsDir, '.identity.partial');
    const part = (): number => {
      try {
        const [version = ''] = readdirSync(partial);
        return statSync(path.join(partial, version, `${weights}.part`)).size;
      } catch {
        return 0;
      }
    };
    while (part() < 500_000) await nextLook(20);
    child.kill('SIGKILL');
    await ended;
    expect(visible()).toEqual([]);
    expect((await run([])).out).toMatch(/No model bundle/);
    const kept = part();
    seen = [];
    const second = await run(['add', url]);
    expect(second).toMatchObject({ code: 0, err: '' });
    expect(second.out).toMatch(new RegExp(`${weights}: going on after`));
    // Neither the whole files again, nor the beginning of the last one.
    expect(seen).toEqual([
      'manifest.json whole',
      `${weights} bytes=${kept}-`,
      'decoder.onnx whole',
    ]);
    expectWhole();
  });

  test('and whose kept beginning is of something else begins anew', async () => {
    breakAfter(1_000_000, true);
    const { child, ended } = start(['add', url]);
    while (!seen.includes(`${weights} whole`)) await nextLook(20);
    child.kill('SIGKILL');
    await ended;
    const partial = path.join(modelsDir, '.identity.partial');
    const [version = ''] = readdirSync(partial);
    writeFileSync(path.join(partial, version, `${weights}.part`), Buffer.alloc(2_000_000, 7));
    misbehave = () => false;
    expect(await run(['add', url])).toMatchObject({ code: 0, err: '' });
    expectWhole();
  });

  test('for good says that it can be gone on with', async () => {
    misbehave = (name, _, response) => {
      if (name !== weights) return false;
      response.writeHead(503).end();
      return true;
    };
    const outcome = await run(['add', url]);
    expectRefusal(outcome, /could not be fetched \(HTTP 503\).* run the same command again/);
    misbehave = () => false;
    expect(await run(['add', url])).toMatchObject({ code: 0, err: '' });
    expectWhole();
  });
});

test('two that add the same bundle at once get one', async () => {
  const [one, two] = await Promise.all([run(['add', url]), run(['add', url])]);
  expect([one, two]).toMatchObject([
    { code: 0, err: '' },
    { code: 0, err: '' },
  ]);
  expect(seen.filter((line) => line.startsWith(weights))).toHaveLength(1);
  expectWhole();
});

describe('a bundle that --sha256 names and that is there', () => {
  let demanded: string[];
  const place = () => path.join(modelsDir, 'identity');
  const awayFor = (status: number) => {
    misbehave = (_name, _request, response) => {
      response.writeHead(status).end();
      return true;
    };
  };
  const damage = (file: string, bytes: Buffer) => writeFileSync(path.join(place(), file), bytes);

  beforeEach(async () => {
    const { out } = await run(['add', offered]);
    demanded = [url, '--sha256', /sha256 ([0-9a-f]{64})/.exec(out)?.[1] ?? ''];
    seen = [];
  });

  test('is found while its host is away, which is not asked', async () => {
    awayFor(500);
    const [, flag = '', digest = ''] = demanded;
    for (const text of [digest, digest.toUpperCase()]) {
      const outcome = await run(['add', url, flag, text]);
      expect(outcome).toMatchObject({ code: 0, err: '' });
      expect(outcome.out).toBe(`identity 1.0.0 was already in ${modelsDir}, sha256 ${digest}.\n`);
    }
    expect(seen).toEqual([]);
    expectWhole();
  });

  test('is found beside others, and beside what is no bundle', async () => {
    mkdirSync(path.join(modelsDir, 'another'));
    writeFileSync(path.join(modelsDir, 'another/manifest.json'), '<html>');
    writeFileSync(path.join(modelsDir, 'a-file'), '');
    expect(await run(['add', ...demanded])).toMatchObject({ code: 0, err: '' });
    expect(seen).toEqual([]);
  });

  test('is read while another process holds the lock', async () => {
    const lock = path.join(modelsDir, '.identity.lock');
    mkdirSync(lock);
    writeFileSync(path.join(lock, 'owner'), JSON.stringify({ host: hostname(), pid: process.pid }));
    // It never grows stale: who waits for it waits for ever.
    const later = new Date(Date.now() + 86_400_000);
    utimesSync(lock, later, later);
    for (const args of [demanded, [url]]) {
      const outcome = await run(['add', ...args]);
      expect(outcome).toMatchObject({ code: 0, err: '' });
      expect(outcome.out).toMatch(/^identity 1\.0\.0 was already in/);
    }
  });

  test.each<[string, () => void]>([
    ['a file of another content', () => damage(weights, randomBytes(weightsBytes))],
    ['a file that is cut short', () => damage('unet.onnx', Buffer.alloc(3))],
    ['a missing file', () => rmSync(path.join(place(), 'decoder.onnx'))],
  ])('but damaged, with %s, is fetched again', async (_name, harm) => {
    harm();
    const outcome = await run(['add', ...demanded]);
    expect(outcome).toMatchObject({ code: 0, err: '' });
    expect(outcome.out).toMatch(/identity holds this bundle, but damaged: it is fetched again/);
    expectWhole();
  });

  test('but damaged is fetched once by two at once', async () => {
    damage(weights, randomBytes(weightsBytes));
    const both = await Promise.all([run(['add', ...demanded]), run(['add', ...demanded])]);
    expect(both).toMatchObject([
      { code: 0, err: '' },
      { code: 0, err: '' },
    ]);
    expect(seen.filter((line) => line.startsWith(weights))).toHaveLength(1);
    expectWhole();
  });

  test('but damaged, while its host is away, is no success and stays', async () => {
    damage(weights, randomBytes(weightsBytes));
    awayFor(404);
    expectRefusal(await run(['add', ...demanded]), /answers HTTP 404/, ['identity']);
  });

  test('but damaged beyond knowing what it is is replaced only when asked to', async () => {
    damage('manifest.json', Buffer.from('{'));
    const reason = /holds a damaged bundle, and this is identity 1\.0\.0\. Give --replace/;
    expectRefusal(await run(['add', ...demanded]), reason, ['identity']);
    expect(await run(['add', ...demanded, '--replace'])).toMatchObject({ code: 0, err: '' });
    expectWhole();
  });

  test('is not taken for another one that is demanded', async () => {
    const outcome = await run(['add', url, '--sha256', 'ab'.repeat(32)]);
    expectRefusal(outcome, /not the one that --sha256 names/, ['identity']);
  });
});

describe('another version', () => {
  test('replaces the one that is there only when asked to', async () => {
    await run(['add', offered]);
    const newer = path.join(folder, 'newer');
    cpSync(offered, newer, { recursive: true });
    changeManifest(newer, (manifest) => {
      manifest.version = '2.0.0';
    });
    const reason = /identity 1\.0\.0, and this is identity 2\.0\.0\. Give --replace/;
    expectRefusal(await run(['add', newer]), reason, ['identity']);
    expect((await run([])).out).toContain('identity 1.0.0');
    expect(await run(['add', newer, '--replace'])).toMatchObject({ code: 0, err: '' });
    expect((await run([])).out).toContain('identity 2.0.0');
    expect(readdirSync(modelsDir)).toEqual(['identity']);
  });

  test('never replaces what is no bundle', async () => {
    mkdirSync(path.join(modelsDir, 'identity'));
    writeFileSync(path.join(modelsDir, 'identity/thesis.txt'), 'mine');
    const outcome = await run(['add', offered, '--replace']);
    expectRefusal(outcome, /is no model bundle, so it is not replaced/, ['identity']);
    expect(readdirSync(path.join(modelsDir, 'identity'))).toEqual(['thesis.txt']);
  });
});

describe('nothing is added', () => {
  test.each<[string, (bundle: string) => void, RegExp]>([
    [
      'a file of another content',
      (b) => writeFileSync(path.join(b, weights), randomBytes(weightsBytes)),
      /another sha256/,
    ],
    ['a file of another size', (b) => writeFileSync(path.join(b, 'unet.onnx'), 'short'), /bytes/],
    ['a missing file', (b) => rmSync(path.join(b, 'decoder.onnx')), /decoder\.onnx/],
    ['no manifest', (b) => rmSync(path.join(b, 'manifest.json')), /manifest\.json/],
    [
      'a manifest that is none',
      (b) => writeFileSync(path.join(b, 'manifest.json'), '<html>'),
      /is not JSON/,
    ],
    ['a name that is a path', (b) => changeManifest(b, (m) => (m.name = '../up')), /\/name/],
    [
      'a file that is a path',
      (b) => changeManifest(b, (m) => (m.graphs.unet.file = '../x.onnx')),
      /unet\/file/,
    ],
  ])('from a folder or URL with %s', async (_name, damage, reason) => {
    const before = offered;
    const damaged = mkdtempSync(path.join(folder, 'damaged-'));
    cpSync(offered, damaged, { recursive: true });
    damage(damaged);
    expectRefusal(await run(['add', damaged]), reason);
    offered = damaged;
    try {
      expectRefusal(
        await run(['add', url]),
        reason.source === 'bytes' ? /bytes|could not/ : reason,
      );
    } finally {
      offered = before;
    }
  });

  test.each<[string, string[], RegExp]>([
    ['a folder that is not there', ['/nowhere/bundle'], /\/nowhere\/bundle is no model bundle/],
    ['plain HTTP of another machine', ['http://192.0.2.1/b'], /--plain-http/],
    ['another protocol', ['ftp://192.0.2.1/b'], /expected an https/],
    ['a password', ['https://me:secret@192.0.2.1/b'], /192\.0\.2\.1 is not taken: a user name or/],
    ['a query', ['https://192.0.2.1/b?sig=1'], /must be a folder/],
  ])('from %s', async (_name, args, reason) => {
    const outcome = await run(['add', ...args]);
    expectRefusal(outcome, reason);
    expect(outcome.err).not.toContain('secret');
  });

  test('from a server that sends more than the manifest says, or redirects for ever', async () => {
    misbehave = (name, _, response) => {
      if (name !== weights) return false;
      response.writeHead(200);
      response.end(Buffer.alloc(weightsBytes + 1));
      return true;
    };
    expectRefusal(await run(['add', url]), /more than the 3000000 bytes/);
    misbehave = (_name, _request, response) => {
      response.writeHead(302, { location: `${url}/manifest.json` }).end();
      return true;
    };
    expectRefusal(await run(['add', url]), /redirects more than 5 times/);
  });

  test('from where nobody answers', async () => {
    const { port } = server.address() as AddressInfo;
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    const outcome = await run(['add', `http://127.0.0.1:${port}/b`]);
    expectRefusal(outcome, /could not be fetched \(.*ECONNREFUSED.*run the same command again/);
    server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  });

  test('to a disk that is full, which is left as it was', async () => {
    // A limit on the size of files stands in for a full disk: 1 MB.
    for (const from of [offered, url]) {
      const outcome = await run(['add', from], 'ulimit -f 1000;');
      expectRefusal(outcome, /The disk of .* is full .* Free space, or set another MODELS_DIR/);
      expect(readdirSync(modelsDir)).toEqual([]);
    }
  });

  test('to a folder that cannot be made', async () => {
    writeFileSync(path.join(modelsDir, 'file'), '');
    const nested = path.join(modelsDir, 'file/models');
    const { status, stderr } = spawnSync(process.execPath, [cli, 'models', 'add', offered], {
      env: { ...process.env, MODELS_DIR: nested },
      encoding: 'utf8',
    });
    expect(stderr).toMatch(/^pisa-serve: .*file\/models cannot be written .*MODELS_DIR\.\n$/);
    expect(status).toBe(1);
  });
});
