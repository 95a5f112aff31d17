/** Containers as a Compose file asks for them, run by podman in the network of these tests. */
import { expect } from 'vitest';
import { procFile } from '../support/processes.ts';
import type { ComposeService } from './compose.ts';
import { type Ended, run } from './tools.ts';

export const podman = (...args: string[]): Promise<Ended> => run('podman', ...args);

/** What docs/docker.md runs `serve` with. */
export const hardened = {
  read_only: true,
  cap_drop: ['ALL'],
  security_opt: ['no-new-privileges:true'],
  tmpfs: ['/tmp'],
} satisfies Partial<ComposeService>;

/**
 * Each name of a service is this machine's loopback address, where every container is (test/images/run.sh).
 * `--cgroups=disabled`: no limits are tested, and containers stay in the group that the test was started in.
 * `--read-only-tmpfs=false`: podman would add writable folders that Docker does not.
 */
function flags(service: ComposeService): string[] {
  const volumes = (service.volumes ?? []).map(({ source, target, read_only }) =>
    [...(source ? [source] : []), target, ...(read_only ? ['ro'] : [])].join(':'),
  );
  return [
    '--network=host',
    '--add-host=redis:127.0.0.1',
    '--cgroups=disabled',
    ...(service.read_only ? ['--read-only', '--read-only-tmpfs=false'] : []),
    ...(service.cap_drop ?? []).map((name) => `--cap-drop=${name}`),
    ...(service.security_opt ?? []).map((option) => `--security-opt=${option}`),
    ...(service.tmpfs ?? []).map((folder) => `--tmpfs=${folder}`),
    ...volumes.map((volume) => `--volume=${volume}`),
    ...Object.entries(service.environment ?? {}).map(([name, value]) => `--env=${name}=${value}`),
    ...(service.entrypoint ? [`--entrypoint=${JSON.stringify(service.entrypoint)}`] : []),
    ...(service.healthcheck
      ? [`--health-cmd=${JSON.stringify(service.healthcheck.test.slice(1))}`]
      : []),
    ...(service.stop_grace_period
      ? [`--stop-timeout=${Number.parseInt(service.stop_grace_period, 10)}`]
      : []),
    service.image,
    ...(service.command ?? []),
  ];
}

/** Runs a container to its end. */
export const runOnce = (service: ComposeService): Promise<Ended> =>
  podman('run', '--rm', ...flags(service));

/** Starts a container; `remove` ends it. @throws what podman said when it did not start */
export async function start(name: string, service: ComposeService): Promise<void> {
  const { code, stderr } = await podman('run', '--detach', `--name=${name}`, ...flags(service));
  if (code !== 0) throw new Error(`podman run ${name}: ${stderr}`);
}

export const remove = (...names: string[]): Promise<Ended> =>
  podman('rm', '--force', '--ignore', '--volumes', '--time=0', ...names);

/** What HEALTHCHECK or Compose's `healthcheck` makes of a container. */
export const isHealthy = async (name: string): Promise<boolean> =>
  (await podman('healthcheck', 'run', name)).code === 0;

/** SIGTERM and, after the service's time to stop, SIGKILL. @returns the exit code */
export async function stop(name: string): Promise<number> {
  await podman('stop', name);
  return Number((await podman('inspect', '--format={{.State.ExitCode}}', name)).stdout);
}

/** The pid, outside of the container, of its first process. @throws its log, when it does not run */
export async function pidOf(name: string): Promise<number> {
  const pid = Number((await podman('inspect', '--format={{.State.Pid}}', name)).stdout);
  if (pid > 0 && procFile(pid, 'status') !== '') return pid;
  const { stdout, stderr } = await podman('logs', name);
  throw new Error(`${name} does not run: ${stdout}${stderr}`);
}

/**
 * The folders and files that a container's user can write, as it sees them, but for those of the kernel; sorted.
 * @param expected volumes and temporary folders: named, but not searched
 */
export async function writablePlaces(name: string, expected: string[]): Promise<string[]> {
  const anyOf = (folders: string[]) => {
    const paths = folders.flatMap((folder) => ['-path', folder, '-o']);
    return ['(', ...paths.slice(0, -1), ')', '-prune'];
  };
  const { stdout } = await podman(
    ...['exec', name, 'find', '/', ...anyOf(['/proc', '/sys', '/dev'])],
    ...['-o', ...anyOf(expected), '-writable', '-print'],
    ...['-o', '-writable', '!', '-type', 'l', '-print'],
  );
  return stdout.trim().split('\n').sort();
}

/** What a container changed of its image's files: nothing, where its root is read-only. */
export async function changedFiles(name: string): Promise<string[]> {
  const { code, stdout, stderr } = await podman('diff', name);
  expect(code, stderr).toBe(0);
  // podman itself puts the mount points of volumes there.
  return stdout.split('\n').filter((line) => line !== '' && line !== 'C /etc');
}
