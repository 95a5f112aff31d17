/** What a clone holds where git is set up as on Windows, with CRLF at the end of lines. */
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

const root = path.resolve(import.meta.dirname, '../../..');
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-clone-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const inFolder = (...parts: string[]): string => path.join(folder, ...parts);

/** Without the settings of whoever runs this. */
const git = (...args: string[]): void => {
  const settings = { GIT_CONFIG_GLOBAL: '/dev/null', GIT_CONFIG_NOSYSTEM: '1' };
  execFileSync('git', ['-c', 'user.name=Test', '-c', 'user.email=test@example.com', ...args], {
    env: { PATH: process.env.PATH, ...settings },
    stdio: 'ignore',
  });
};

// The repository may have come as an archive, to a machine without git.
const hasGit = spawnSync('git', ['--version']).status === 0;

test.skipIf(!hasGit)('scripts run in it, and what is not text stays as it is', () => {
  const table = 'python/table.csv';
  const files = ['.gitattributes', 'scripts/setup.sh', 'test/photos/cat-128.jpg'];
  mkdirSync(inFolder('of', 'python'), { recursive: true });
  for (const file of files) cpSync(path.join(root, file), inFolder('of', file));
  writeFileSync(inFolder('of', table), 'one,two\r\n');
  git('init', inFolder('of'));
  git('-C', inFolder('of'), 'add', '.');
  git('-C', inFolder('of'), 'commit', '-m', 'All');
  git('clone', '-c', 'core.autocrlf=true', inFolder('of'), inFolder('clone'));

  for (const file of [...files, table]) {
    const same = readFileSync(inFolder('clone', file)).equals(readFileSync(inFolder('of', file)));
    expect([file, same]).toEqual([file, true]);
  }
  const { stderr } = spawnSync('bash', [inFolder('clone/scripts/setup.sh')], { encoding: 'utf8' });
  expect(stderr).toMatch(/^Usage: /);
});
