/** Ports and processes of this machine (Linux), for tests and benchmarks that start real services. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';

/** For a program that cannot pick a port itself and say which: another may take it before that program listens. */
export async function freePort(): Promise<number> {
  const [port] = await freePorts(1);
  return port as number;
}

/** No two alike: all are held until all are known. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  for (const server of servers) server.close();
  await Promise.all(servers.map((server) => once(server, 'close')));
  return ports;
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

/** Runs `step` while a process stands still: what it is doing cannot end meanwhile, however fast the machine. */
export async function whileStopped<T>(pid: number, step: () => Promise<T>): Promise<T> {
  process.kill(pid, 'SIGSTOP');
  try {
    return await step();
  } finally {
    if (isAlive(pid)) process.kill(pid, 'SIGCONT');
  }
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
