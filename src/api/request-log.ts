/** One id, one log line and one histogram sample for each request; no bodies, no image bytes, no raw URLs in labels. */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { metrics } from '../metrics.ts';
import { traceOf } from '../tracing/tracing.ts';
import type { App } from './services.ts';

export const requestIdHeader = 'x-request-id';

/** The client's own id when it can be logged as it is, else a new one. */
export function requestId(raw: Pick<IncomingMessage, 'headers'>): string {
  const given = raw.headers[requestIdHeader];
  return typeof given === 'string' && /^[\w.:@-]{1,128}$/.test(given) ? given : randomUUID();
}

/** Probes and scrapes come every few seconds: their lines would bury the others. */
export const quietRoutes = new Set(['/healthz', '/readyz', '/metrics']);

export function registerRequestLog(app: App): void {
  app.addHook('onRequest', async (request, reply) => {
    // On the bare response, where a fault of the connection finds it (`clientErrorHandler`).
    reply.raw.setHeader(requestIdHeader, request.id);
  });
  app.addHook('onResponse', async (request, reply) => {
    const route = request.is404 ? 'unmatched' : (request.routeOptions.url ?? 'unmatched');
    const { method } = request;
    const status = reply.statusCode;
    // A stream of events lasts as long as its job: that is no latency.
    if (reply.getHeader('content-type') !== 'text/event-stream') {
      metrics.httpSeconds.observe({ method, route, status }, reply.elapsedTime / 1000);
    }
    const job = reply.getHeader('x-job-id');
    request.log[quietRoutes.has(route) && status < 400 ? 'debug' : 'info'](
      {
        method,
        route,
        status,
        durationMs: Math.round(reply.elapsedTime * 10) / 10,
        ...(job === undefined ? {} : { job }),
        ...traceOf(request.span?.traceparent),
        ...(request.client.name === '' ? {} : { client: request.client.name }),
      },
      'request',
    );
  });
}
