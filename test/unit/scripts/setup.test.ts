/** scripts/setup.sh on a Debian of our own making: a PATH with stand-ins for apt-get and for what it installs. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

const script = path.resolve(import.meta.dirname, '../../../scripts/setup.sh');
let folder: string;
let policy: string;

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-setup-'));
  policy = path.join(folder, 'policy-rc.d');
  mkdirSync(path.join(folder, 'bin'));
  mkdirSync(path.join(folder, 'tmp'));
  for (const name of ['bash', 'sh', 'mktemp', 'chmod', 'rm', 'tail', 'grep', 'cat', 'cp']) {
    const found = spawnSync('sh', ['-c', `command -v ${name}`])
      .stdout.toString()
      .trim();
    symlinkSync(found, path.join(folder, 'bin', name));
  }
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const program = (name: string, text: string): void =>
  writeFileSync(path.join(folder, 'bin', name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
const asRoot = (): void => program('id', 'echo 0');
const asUser = (): void => program('id', 'echo 1000');
/** An apt-get that notes its arguments, and what its policy says meanwhile, then does `step`. */
const aptGet = (step: string): void =>
  program('apt-get', `echo "$@" >>${folder}/asked; cat ${policy} >${folder}/policy-seen\n${step}`);
const asked = (): string => readFileSync(path.join(folder, 'asked'), 'utf8');
const env = () => ({
  PATH: path.join(folder, 'bin'),
  POLICY_RC_D: policy,
  TMPDIR: path.join(folder, 'tmp'),
});
const setup = (...args: string[]) => {
  const { status, stdout, stderr } = spawnSync('bash', [script, ...args], { env: env() });
  return { status, stdout: stdout.toString(), stderr: stderr.toString() };
};
const leftovers = (): string[] => [
  ...(existsSync(policy) ? [policy] : []),
  ...readdirSync(path.join(folder, 'tmp')),
];

test('installs what is missing, with no service started by it, and leaves nothing else behind', () => {
  asRoot();
  aptGet('');
  expect(setup('redis')).toMatchObject({ status: 0 });
  expect(asked()).toBe('update\ninstall -y --no-install-recommends redis-server\n');
  expect(readFileSync(path.join(folder, 'policy-seen'), 'utf8')).toContain('exit 101');
  expect(leftovers()).toEqual([]);
});

test.each([
  // As from a terminal: to everyone in the foreground.
  ['Ctrl-C, of which apt-get dies', 'SIGINT', 'sleep'],
  ['Ctrl-C, which apt-get takes in its own way', 'SIGINT', 'trap "exit 100" INT; sleep'],
  ['SIGTERM', 'SIGTERM', 'sleep'],
  ['the end of the terminal', 'SIGHUP', 'sleep'],
] as const)('%s leaves the machine able to start its services', async (_name, signal, step) => {
  asRoot();
  program('sleep', 'echo >&3; exec /bin/sleep 600');
  aptGet(`${step} 600`);
  const child = spawn('bash', [script, 'redis'], {
    env: env(),
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
  });
  const ended = once(child, 'exit');
  const running = child.stdio[3];
  if (!running || !child.pid) throw new Error('It did not start.');
  await once(running, 'data');
  expect(existsSync(policy)).toBe(true);
  process.kill(-child.pid, signal);
  expect(await ended).not.toEqual([0, null]);
  expect(leftovers()).toEqual([]);
});

test("the machine's own policy stays as it is", () => {
  asRoot();
  aptGet('');
  writeFileSync(policy, 'of the machine');
  expect(setup('redis')).toMatchObject({ status: 0 });
  expect(readFileSync(policy, 'utf8')).toBe('of the machine');
});

test('an apt-get that fails: its last words and what to do', () => {
  asRoot();
  aptGet('echo no such package; exit 100');
  const { status, stderr } = setup('curl');
  expect(status).toBe(1);
  expect(stderr).toMatch(/no such package\napt-get could not install curl: .* run make again/);
  expect(leftovers()).toEqual([]);
});

test.each([
  ['redis', /redis-server is missing: install it .*apt install redis-server/],
  ['curl', /curl is missing: install it .*apt install curl/],
  ['python', /python3 with its venv module is missing: .*apt install python3-venv/],
  ['firefox', /firefox-esr is missing: install it .*apt install firefox-esr/],
  ['prometheus', /prometheus and promtool are missing: .*apt install prometheus/],
])('%s without the right to install it: says what to install', (what, words) => {
  asUser();
  aptGet('');
  const { status, stderr } = setup(what);
  expect(status).toBe(1);
  expect(stderr).toMatch(words);
  expect(existsSync(path.join(folder, 'asked'))).toBe(false);
});

/** A Node.js that says it is of this version. */
const nodeOf = (version: string): void => {
  const versions = `Object.defineProperty(process, "versions", { value: { node: "${version}" } });`;
  program('npm', '');
  program(
    'node',
    `[ "$1" = -e ] || { echo v${version}; exit; }\nexec ${process.execPath} -e '${versions}'"$2"`,
  );
};

test.each([
  ['20.19.1', 1, 1],
  ['20.19.2', 0, 0],
  ['21.7.3', 0, 1],
  ['22.11.0', 0, 1],
  ['22.12.0', 0, 0],
  ['23.11.1', 0, 1],
  ['24.0.0', 0, 0],
])('Node.js %s: for the service %i, for the tests %i', (version, service, tests) => {
  nodeOf(version);
  const needed = new RegExp(
    `^.*Node\\.js 20.* but this is v${version}: install .* run make again\\.`,
  );
  for (const [args, status] of [
    [['node'], service],
    [['node', 'tests'], tests],
  ] as const) {
    const ended = setup(...args);
    expect(ended).toMatchObject({ status, stdout: '' });
    expect(ended.stderr).toMatch(status === 0 ? /^$/ : needed);
  }
});

test.each([
  ['where npm keeps it', 'cache', 'cache'],
  ['in a folder for this time where npm may not write', 'file/cache', 'tmp/'],
])('the cache of npm packages is %s', (_name, wanted, used) => {
  writeFileSync(path.join(folder, 'file'), '');
  symlinkSync('/bin/mkdir', path.join(folder, 'bin/mkdir'));
  const cache = path.join(folder, wanted);
  program(
    'npm',
    `[ "$1" = ci ] || { echo ${cache}; exit; }\necho \${npm_config_cache:-${cache}} >${folder}/asked`,
  );
  expect(setup('packages')).toMatchObject({ status: 0, stderr: '' });
  expect(asked()).toContain(path.join(folder, used));
  expect(leftovers()).toEqual([]);
});

test('what is there is not installed again', () => {
  asRoot();
  aptGet('');
  for (const name of ['redis-server', 'curl', 'python3', 'firefox-esr', 'prometheus', 'promtool'])
    program(name, '');
  for (const what of ['redis', 'curl', 'python', 'firefox', 'prometheus'])
    expect(setup(what)).toEqual({ status: 0, stdout: '', stderr: '' });
});

test('a Python without venv gets it from Debian', () => {
  asRoot();
  // As the split packages do: the interpreter is there, and half of its library.
  program('python3', `[ -e ${folder}/venv ]`);
  aptGet(`: >${folder}/venv`);
  expect(setup('python')).toMatchObject({ status: 0, stderr: '' });
  expect(asked()).toContain('python3-venv');
});
