/** docker/*Dockerfile and compose.yaml by the field's own readers, and that these find planted faults. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ComposeService, composeConfig, composeServices } from './compose.ts';
import { root, run, tool } from './tools.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(process.env.TMPDIR ?? '/tmp', 'pisa-lint-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A copy of a file of the repository with a fault in it. */
function planted(file: string, from: string | RegExp, to: string): string {
  const text = readFileSync(path.join(root, file), 'utf8');
  const faulty = text.replace(from, to);
  expect(faulty).not.toBe(text);
  const copy = path.join(folder, path.basename(file));
  writeFileSync(copy, faulty);
  return copy;
}

describe('hadolint', () => {
  const dockerfiles = readdirSync(path.join(root, 'docker'))
    .filter((name) => name.endsWith('Dockerfile'))
    .map((name) => `docker/${name}`);

  test.each(dockerfiles)('finds nothing in %s', async (file) => {
    expect(await run(tool('hadolint'), '--failure-threshold=style', file)).toMatchObject({
      code: 0,
      stdout: '',
    });
  });

  test.each([
    ['a base without a version', /debian:\S+/, 'debian', 'DL3006'],
    ['root at the end', 'USER 10001:10001', 'USER root', 'DL3002'],
    ['a package that brings recommended ones', '--no-install-recommends', '', 'DL3015'],
    ['a step in a shell that bash refuses', 'RUN corepack', 'RUN if corepack', 'SC10'],
  ])('finds %s', async (_fault, from, to, rule) => {
    const file = planted('docker/Dockerfile', from, to);
    const { code, stdout } = await run(tool('hadolint'), '--failure-threshold=style', file);
    expect(code).toBe(1);
    expect(stdout).toContain(rule);
  });
});

describe('compose.yaml', () => {
  const profiles = [[], ['gpu'], ['observability'], ['gpu', 'observability']];

  test.each(profiles.map((names) => [names.join(' and ') || 'none', names] as const))(
    'fits the Compose Specification with profiles: %s',
    async (_title, names) => {
      expect(await composeConfig('compose.yaml', ...names)).toMatchObject({ code: 0, stderr: '' });
    },
  );

  test.each([
    ['an unknown setting', 'read_only: true', 'read_onli: true', /read_onli/],
    ['a wrong type', 'retries: 3', 'retries: many', /retries/],
    ['a service that is not there', '[prometheus]', '[prometeus]', /undefined service "prometeus"/],
    [
      'a volume that is not there',
      '"objects:/data"',
      '"objekts:/data"',
      /undefined volume objekts/,
    ],
  ])('is refused with %s', async (_fault, from, to, message) => {
    const { code, stderr } = await composeConfig(
      planted('compose.yaml', from, to),
      'observability',
    );
    expect(code).toBe(1);
    expect(stderr).toMatch(message);
  });

  test('no service has more rights, or is reached from elsewhere, than it needs', async () => {
    const services = Object.entries(await composeServices('gpu', 'observability'));
    expect(services.length).toBe(6);
    const wrong = services.filter(
      ([name, service]) =>
        // Grafana writes beside its data: its image is not ours.
        !(service.read_only || name === 'grafana') ||
        service.cap_drop?.join() !== 'ALL' ||
        service.security_opt?.join() !== 'no-new-privileges:true' ||
        service.ports?.some(({ host_ip }) => host_ip !== '127.0.0.1'),
    );
    expect(wrong).toEqual([]);
  });

  test('what it mounts from the repository is there', async () => {
    const services: ComposeService[] = Object.values(await composeServices('gpu', 'observability'));
    const mounted = services
      .flatMap(({ volumes = [] }) => volumes)
      .filter(({ type }) => type === 'bind')
      .map(({ source = '' }) => source);
    expect(mounted.length).toBeGreaterThan(3);
    expect(mounted.filter((source) => !existsSync(source))).toEqual([]);
  });
});
