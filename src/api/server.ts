/** Listens and shuts down. */
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { type AppOptions, buildApp } from './app.ts';
import { checkOpenAccess } from './clients/open-access.ts';
import { Connections } from './connections.ts';

export interface ApiServer {
  readonly port: number;
  /** `http://host:port`, as a client on this machine reaches it. */
  readonly url: string;
  /** Says on `/readyz` that it is leaving, and serves on for SHUTDOWN_DELAY_SECONDS. */
  leave(): Promise<void>;
  /**
   * Leaves, then stops taking requests, answers those that wait, and closes when uploads and downloads under way have
   * ended; those that take longer than SHUTDOWN_GRACE_SECONDS are cut off. The queue and the store stay open: they are
   * the caller's.
   */
  close(): Promise<void>;
}

/** A connection on which no request is under way by then is one that was opened in advance, or is held open. */
const unusedLimitMs = 5000;

/** @throws invalid_config, or the listen error of Node, such as EADDRINUSE */
export async function startServer(options: AppOptions): Promise<ApiServer> {
  const { config } = options;
  const { HOST: host, PORT: port } = config;
  checkOpenAccess(config);
  const leaving = new AbortController();
  const app = await buildApp({ ...options, leaving: leaving.signal });
  const connections = new Connections(app.server);
  try {
    await app.listen({ host: oneAddress(host), port });
  } catch (error) {
    await app.close();
    throw error;
  }
  const address = app.server.address() as AddressInfo;
  let left: Promise<void> | undefined;
  const leave = (): Promise<void> => {
    leaving.abort();
    left ??= delay(config.SHUTDOWN_DELAY_SECONDS * 1000);
    return left;
  };
  let closed: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    await leave();
    const { server } = app;
    const timers = [
      setTimeout(() => connections.endUnused(), unusedLimitMs),
      setTimeout(() => server.closeAllConnections(), config.SHUTDOWN_GRACE_SECONDS * 1000),
    ];
    try {
      await app.close();
    } finally {
      for (const timer of timers) clearTimeout(timer);
    }
  };
  return {
    port: address.port,
    url: `http://${urlHost(host)}:${address.port}`,
    leave,
    close: () => {
      closed ??= close();
      return closed;
    },
  };
}

/**
 * For `localhost` Fastify would listen on ::1 too, with a second server that its `close` does not wait for: what is under
 * way there would be cut.
 */
const oneAddress = (host: string): string => (host === 'localhost' ? '127.0.0.1' : host);

/** "Every address" is one to listen on, not one to call. */
function urlHost(host: string): string {
  if (host === '0.0.0.0' || host === '::') return '127.0.0.1';
  return host.includes(':') ? `[${host}]` : host;
}
