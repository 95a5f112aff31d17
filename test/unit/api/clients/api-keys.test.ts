import {
  chmodSync,
  chownSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { ApiKeys, digestOfKey } from '../../../../src/api/clients/api-keys.ts';
import { checkOpenAccess } from '../../../../src/api/clients/open-access.ts';
import { createKey } from '../../../../src/commands/keys.ts';
import { loadConfig } from '../../../../src/config.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-key-file-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const logger = pino({ level: 'silent' });
const sha256 = digestOfKey('x');

test.each([
  ['no JSON', '{', /is not JSON/],
  ['no keys', '{"keys": []}', /docs\/api-keys\.md.*\/keys/],
  ['a key in the clear', '{"keys": [{"name": "a", "sha256": "pisa_secret"}]}', /\/keys\/0\/sha256/],
  ['no name', `{"keys": [{"sha256": "${sha256}"}]}`, /\/keys\/0/],
  [
    'a limit that is none',
    `{"keys": [{"name": "a", "sha256": "${sha256}", "concurrent_jobs": -1}]}`,
    /concurrent_jobs/,
  ],
  [
    'a day and a month swapped',
    `{"keys": [{"name": "a", "sha256": "${sha256}", "expires_at": "2026-31-12T00:00:00Z"}]}`,
    /expires_at of a, "2026-31-12T00:00:00Z", is no date and time/,
  ],
  [
    'an hour of one digit',
    `{"keys": [{"name": "a", "sha256": "${sha256}", "expires_at": "2026-12-31T9:00:00Z"}]}`,
    /expires_at of a/,
  ],
  [
    'a word we do not know',
    `{"keys": [{"name": "a", "sha256": "${sha256}", "rate": 1}]}`,
    /\/keys\/0/,
  ],
])('a file with %s is refused with what is wrong', async (_what, text, message) => {
  const file = path.join(folder, 'bad.json');
  writeFileSync(file, text);
  await expect(ApiKeys.open(file, logger)).rejects.toMatchObject({
    code: 'invalid_config',
    message: expect.stringMatching(message),
  });
});

test('a file that is not there is refused', async () => {
  await expect(ApiKeys.open(path.join(folder, 'none'), logger)).rejects.toThrow(/cannot be read/);
});

test('a key that is made is found by its file, which does not hold it; another is added', async () => {
  const file = path.join(folder, 'made.json');
  const printed: string[] = [];
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => printed.push(String(text)) > 0);
  vi.spyOn(process.stderr, 'write').mockImplementation(() => true);
  await createKey('one', file, { requestsPerMinute: 60 });
  await createKey('two', file, { concurrentJobs: 3 });
  vi.restoreAllMocks();
  const [one = '', two = ''] = printed.map((line) => line.trim());
  expect(one).toMatch(/^pisa_[\w-]{43}$/);
  const text = readFileSync(file, 'utf8');
  expect(text).not.toContain(one);
  const keys = await ApiKeys.open(file, logger);
  expect(keys.find(one)).toMatchObject({ name: 'one', requests_per_minute: 60 });
  expect(keys.find(two)).toMatchObject({ name: 'two', concurrent_jobs: 3 });
  expect(keys.find(`${one}x`)).toBeUndefined();
  expect(keys.find(digestOfKey(one))).toBeUndefined();
  keys.close();
});

test('a key that is added leaves the file to whoever had it', async () => {
  vi.spyOn(process.stdout, 'write').mockImplementation(() => true);
  vi.spyOn(process.stderr, 'write').mockImplementation(() => true);
  const file = path.join(folder, 'shared.json');
  await createKey('one', file, {});
  expect(statSync(file).mode & 0o7777).toBe(0o600);
  chmodSync(file, 0o640);
  // Only root can give a file away.
  const owner = process.getuid?.() === 0 ? 10001 : statSync(file).uid;
  chownSync(file, owner, statSync(file).gid);
  await createKey('two', file, {});
  vi.restoreAllMocks();
  expect(statSync(file)).toMatchObject({ uid: owner });
  expect(statSync(file).mode & 0o7777).toBe(0o640);
});

test('keys create says where it cannot write', async () => {
  const file = path.join(folder, 'absent', 'keys.json');
  await expect(createKey('one', file, {})).rejects.toMatchObject({
    code: 'invalid_config',
    message: expect.stringContaining(`${file} cannot be written (ENOENT)`),
  });
});

test.each([
  ['127.0.0.1', {}, true],
  ['127.3.2.1', {}, true],
  ['::1', {}, true],
  ['localhost', {}, true],
  ['0.0.0.0', {}, false],
  ['::', {}, false],
  ['10.0.0.1', {}, false],
  ['::ffff:10.0.0.1', {}, false],
  ['example.org', {}, false],
  ['0.0.0.0', { OPEN_ACCESS: 'anywhere' }, true],
  ['0.0.0.0', { API_KEYS_FILE: '/keys' }, true],
])('HOST=%s with %j may listen: %s', (HOST, others, may) => {
  const check = () => checkOpenAccess(loadConfig({ HOST, ...others }));
  if (may) expect(check).not.toThrow();
  else expect(check).toThrow(/API_KEYS_FILE.*127\.0\.0\.1.*OPEN_ACCESS=anywhere/);
});
