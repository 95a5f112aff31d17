/** Ports and processes of this machine (Linux), for tests and benchmarks that start real services. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/** A file of `/proc/<pid>`; empty when the process has ended. */
export function procFile(
  pid: number,
  name: 'cmdline' | 'environ' | 'maps' | 'mounts' | 'stat' | 'status',
): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return '';
  }
}

export const allPids = (): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);

/** False for one that has ended, and for a zombie, which has ended but for its parent's knowing. */
export const isAlive = (pid: number): boolean => /^State:\s+[^ZX\s]/m.test(procFile(pid, 'status'));

/** Every live process that descends from `pid`, itself excluded. */
export function descendants(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const child of allPids().filter(isAlive)) {
    const parent = Number(/^PPid:\s+(\d+)/m.exec(procFile(child, 'status'))?.[1]);
    children.set(parent, [...(children.get(parent) ?? []), child]);
  }
  const below = (parent: number): number[] =>
    (children.get(parent) ?? []).flatMap((child) => [child, ...below(child)]);
  return below(pid);
}

/** The device processes of a worker's process. */
export const devicesOf = (pid: number): number[] =>
  descendants(pid).filter((child) => procFile(child, 'cmdline').includes('device-main'));

/** Resident memory in megabytes: now (`VmRSS`) or at its highest (`VmHWM`). NaN once it has ended. */
export const residentMegabytes = (pid: number, field: 'VmRSS' | 'VmHWM'): number =>
  Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(procFile(pid, 'status'))?.[1]) / 1024;

/** Stands in for a full disk: a process that would write a larger file gets EFBIG (`prlimit` of util-linux). */
export function limitFileSize(pid: number, bytes: number | 'unlimited'): void {
  execFileSync('prlimit', [`--pid=${pid}`, `--fsize=${bytes}:`]);
}
