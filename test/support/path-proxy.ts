/** A reverse proxy that has the service below the path /photos, which it takes off. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface PathProxy {
  readonly url: string;
  stop(): void;
}

/**
 * @param onAnswer may break an answer off: `response` is the service's, `answer` what is made of it
 * @param ownStatus of a page of the proxy itself, which does not ask the service then
 */
export async function startProxy(
  target: string,
  onAnswer: (url: string, response: IncomingMessage, answer: ServerResponse) => void = () => {},
  ownStatus: (url: string) => number | undefined = () => undefined,
): Promise<PathProxy> {
  const server = createServer((incoming, answer) => {
    const { method = 'GET', headers, url = '' } = incoming;
    const status = ownStatus(url);
    if (status !== undefined) {
      answer.writeHead(status, { 'content-type': 'text/html' }).end('<h1>Bad gateway</h1>');
      return;
    }
    const path = url.replace(/^\/photos/, '');
    const outgoing = request(`${target}${path}`, { method, headers }, (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers);
      response.on('close', () => answer.destroy());
      response.pipe(answer);
      onAnswer(url, response, answer);
    });
    outgoing.on('error', () => answer.destroy());
    answer.on('close', () => outgoing.destroy());
    incoming.pipe(outgoing);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    stop: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}
