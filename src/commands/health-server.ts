/** The probes and metrics of a `pisa-serve worker`, which serves no other HTTP: /healthz, /readyz, /metrics. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Registry } from 'prom-client';

export interface HealthServer {
  readonly port: number;
  close(): Promise<void>;
}

export async function startHealthServer(options: {
  host: string;
  port: number;
  registry: Registry;
  /** True while at least one device takes jobs. */
  isReady: () => boolean;
}): Promise<HealthServer> {
  const server = createServer((request, response) => {
    const answer = (status: number, type: string, body: string): void => {
      response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(body);
    };
    const ready = options.isReady();
    switch (request.url) {
      case '/healthz':
        return answer(200, 'application/json', '{"status":"ok"}');
      case '/readyz':
        return answer(ready ? 200 : 503, 'application/json', `{"ready":${ready}}`);
      case '/metrics':
        options.registry.metrics().then(
          (text) => answer(200, options.registry.contentType, text),
          () => answer(500, 'text/plain', 'The metrics could not be collected.\n'),
        );
        return;
      default:
        return answer(
          404,
          'text/plain',
          'This is a worker: /healthz, /readyz and /metrics only.\n',
        );
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, options.host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
