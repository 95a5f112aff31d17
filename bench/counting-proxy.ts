/** Stands in front of the service and counts the answers, whoever sends the requests. */
import { createServer, request as send } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface CountingProxy {
  url: string;
  /** Answers by status; 0: the service gave none. */
  readonly statuses: Map<number, number>;
  /** Answers from 500 up whose body is not a documented 503. */
  readonly faults: string[];
  total(): number;
  close(): void;
}

/** Retried later, these succeed. */
const documented503 =
  /"code":"(redis_unavailable|storage_unavailable|too_many_fetches|too_many_uploads|not_ready|shutting_down)"/;
/** Enough to see what a fault is. */
const keptFaults = 20;

export async function startCountingProxy(target: string): Promise<CountingProxy> {
  const { hostname, port } = new URL(target);
  const statuses = new Map<number, number>();
  const faults: string[] = [];
  const count = (status: number, line: string, body = ''): void => {
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    const fine = status !== 0 && (status < 500 || (status === 503 && documented503.test(body)));
    if (!fine && faults.length < keptFaults) faults.push(`${status} ${line} ${body.slice(0, 300)}`);
  };
  const server = createServer((request, response) => {
    const line = `${request.method} ${request.url?.slice(0, 200)}`;
    let gone = false;
    const { method, url: path, rawHeaders } = request;
    const onward = send({ hostname, port, method, path, headers: rawHeaders }, (answer) => {
      const { statusCode = 0 } = answer;
      let body = '';
      if (statusCode >= 500) {
        answer.on('data', (chunk: Buffer) => {
          body += chunk.toString('latin1');
        });
      }
      answer.on('end', () => count(statusCode, line, body));
      response.writeHead(statusCode, answer.rawHeaders);
      answer.pipe(response);
    });
    onward.on('error', (error) => {
      // A client that has gone took its request with it.
      if (!gone && !response.headersSent) count(0, line, error.message);
      response.destroy();
    });
    response.on('close', () => {
      gone = true;
      if (!response.writableFinished) onward.destroy();
    });
    request.on('error', () => onward.destroy());
    request.pipe(onward);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    statuses,
    faults,
    total: () => [...statuses.values()].reduce((sum, one) => sum + one, 0),
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
