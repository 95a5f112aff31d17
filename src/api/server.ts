/** Listens and shuts down. */
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { type AppOptions, buildApp } from './app.ts';
import { checkOpenAccess } from './clients/open-access.ts';

export interface ApiServer {
  readonly port: number;
  /** `http://host:port`, as a client on this machine reaches it. */
  readonly url: string;
  /**
   * Says on `/readyz` that it is leaving, serves on for SHUTDOWN_DELAY_SECONDS, then stops taking requests, answers
   * those in flight, closes. Uploads and downloads that then take longer than `limitMs` are cut off. The queue and the
   * store stay open: they are the caller's.
   */
  close(limitMs?: number): Promise<void>;
}

const defaultCloseLimitMs = 5000;

/** @throws invalid_config, or the listen error of Node, such as EADDRINUSE */
export async function startServer(options: AppOptions): Promise<ApiServer> {
  const { HOST: host, PORT: port, SHUTDOWN_DELAY_SECONDS: delaySeconds } = options.config;
  checkOpenAccess(options.config);
  const leaving = new AbortController();
  const app = await buildApp({ ...options, leaving: leaving.signal });
  try {
    await app.listen({ host, port });
  } catch (error) {
    await app.close();
    throw error;
  }
  const address = app.server.address() as AddressInfo;
  return {
    port: address.port,
    url: `http://${urlHost(host)}:${address.port}`,
    close: async (limitMs = defaultCloseLimitMs) => {
      leaving.abort();
      await delay(delaySeconds * 1000);
      const cut = setTimeout(() => app.server.closeAllConnections(), limitMs);
      try {
        await app.close();
      } finally {
        clearTimeout(cut);
      }
    },
  };
}

/** "Every address" is one to listen on, not one to call. */
function urlHost(host: string): string {
  if (host === '0.0.0.0' || host === '::') return '127.0.0.1';
  return host.includes(':') ? `[${host}]` : host;
}
