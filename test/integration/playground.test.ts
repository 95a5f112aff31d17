/** The files of the playground: what they are served with, and that nothing else is. */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApi, type TestApi } from '../support/api.ts';
import { contract } from '../support/contract.ts';
import { json, parseRaw, rawExchange, send } from '../support/http.ts';

const folder = path.resolve(import.meta.dirname, '../../web');
const types: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.jpg': 'image/jpeg',
};
const urlOf = (name: string) => (name === 'index.html' ? '/' : `/playground/${name}`);

let api: TestApi;
let names: string[];
beforeAll(async () => {
  api = await startApi();
  names = await readdir(folder);
});
afterAll(() => api.stop());

test('every file of web/ is served, with its type and a policy that lets nothing else in', async () => {
  expect(names).toContain('index.html');
  for (const name of names) {
    const answer = await send(`${api.url}${urlOf(name)}`);
    expect(answer.status, name).toBe(200);
    expect(answer.body.equals(await readFile(path.join(folder, name))), name).toBe(true);
    expect(Object.fromEntries(answer.headers), name).toMatchObject({
      'content-type': types[path.extname(name)],
      'content-security-policy':
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
      'x-content-type-options': 'nosniff',
      'referrer-policy': 'no-referrer',
      'cache-control': 'no-cache',
    });
  }
});

test('the page names its own files only, relative to itself', async () => {
  const page = (await send(`${api.url}/`)).body.toString();
  const urls = [...page.matchAll(/(?:src|href)="([^"]*)"/g)].map(([, url]) => url);
  expect(urls).toEqual([
    'playground/icon.svg',
    'playground/style.css',
    'playground/main.js',
    'docs/',
  ]);
  expect(page).not.toMatch(/\sstyle=|\son[a-z]+=/);
});

test.each(['/', '/playground/main.js'])(
  '%s has an ETag, and is 304 to whom has it',
  async (url) => {
    const first = await send(`${api.url}${url}`);
    const etag = first.headers.get('etag') ?? '';
    expect(etag).toMatch(/^"[\w-]{43}"$/);
    const again = await send(`${api.url}${url}`, { headers: { 'if-none-match': `W/${etag}` } });
    expect([again.status, again.body.length]).toEqual([304, 0]);
    expect(again.headers.get('etag')).toBe(etag);
    expect((await send(`${api.url}${url}`, { headers: { 'if-none-match': '"x"' } })).status).toBe(
      200,
    );
  },
);

test('HEAD answers without the file, other methods are refused', async () => {
  const head = await send(`${api.url}/`, { method: 'HEAD' });
  expect([head.status, head.body.length]).toEqual([200, 0]);
  expect(Number(head.headers.get('content-length'))).toBeGreaterThan(1000);
  const post = await send(`${api.url}/`, { method: 'POST' });
  expect([post.status, post.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
});

describe('what is none of its files', () => {
  test.each(['/playground', '/playground/', '/playground/index.html', '/playground/nothing.js'])(
    '%s is 404, as a problem',
    async (url) => {
      const answer = await send(`${api.url}${url}`);
      expect(answer.status).toBe(404);
      expect(answer.headers.get('content-type')).toContain('application/problem+json');
      expect(json(answer)).toMatchObject({ code: 'not_found' });
    },
  );

  test.each([
    '/playground/../package.json',
    '/playground/%2e%2e/package.json',
    '/playground/..%2fpackage.json',
    '/playground/%2e%2e%2fpackage.json',
    '/playground/..\\package.json',
    '//etc/passwd',
  ])('%s leads nowhere', async (url) => {
    // By hand: fetch would resolve the dots before it sends them.
    const head = `GET ${url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`;
    expect(parseRaw(await rawExchange(api.port, [head])).status).toBe(404);
  });

  test('the contract does not name them', () => {
    const paths = Object.keys(contract.paths);
    expect(paths.filter((url) => url === '/' || url.startsWith('/playground'))).toEqual([]);
  });
});

test('no key is asked for where all else asks for one', async () => {
  const scratch = await mkdtemp(path.join(tmpdir(), 'pisa-playground-'));
  const file = path.join(scratch, 'keys.json');
  await writeFile(file, JSON.stringify({ keys: [{ name: 'a', sha256: 'a'.repeat(64) }] }));
  const guarded = await startApi({ API_KEYS_FILE: file });
  try {
    for (const name of names) {
      expect((await send(`${guarded.url}${urlOf(name)}`)).status, name).toBe(200);
    }
    expect((await send(`${guarded.url}/models`)).status).toBe(401);
  } finally {
    await guarded.stop();
    await rm(scratch, { recursive: true });
  }
});
