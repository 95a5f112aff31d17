/** A span for each request, but probes and scrapes; a client's own `traceparent` is its parent. */
import { startSpan, type TraceSpan } from '../tracing/tracing.ts';
import { quietRoutes } from './request-log.ts';
import type { App } from './services.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Undefined while traces are off. */
    span: TraceSpan | undefined;
  }
}

export function registerRequestTrace(app: App): void {
  app.decorateRequest('span', undefined);
  app.addHook('onRequest', async (request, reply) => {
    const { method } = request;
    const route = request.is404 ? 'unmatched' : (request.routeOptions.url ?? 'unmatched');
    if (quietRoutes.has(route)) return;
    const span = startSpan(`${method} ${route}`, {
      kind: 'server',
      parent: request.headers.traceparent?.toString(),
      attributes: {
        'http.request.method': method,
        'http.route': route,
        'pisa.request': request.id,
      },
    });
    if (!span) return;
    request.span = span;
    // Also when the client has gone before its answer.
    reply.raw.once('close', () => {
      const status = reply.statusCode;
      const job = reply.getHeader('x-job-id');
      span.set({
        'http.response.status_code': status,
        ...(job === undefined ? {} : { 'pisa.job': String(job) }),
      });
      span.end(status >= 500 ? { error: String(status) } : {});
    });
  });
}
