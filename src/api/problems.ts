/**
 * The one place where errors become answers. Whatever goes wrong in a request (our own AppError, a fault
 * that Fastify found, one on the bare connection) leaves as RFC 9457 `application/problem+json`.
 */
import { randomUUID } from 'node:crypto';
import { type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { ConnectionError, FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { AppError, type ErrorCode, toAppError, toProblem } from '../errors.ts';
import { metrics } from '../metrics.ts';
import { problemContentType } from './problem-schema.ts';
import { requestIdHeader } from './request-log.ts';
import type { App } from './services.ts';

/** What a retryable error asks for when it names no time of its own. */
const defaultRetryAfterSeconds = 5;

/** Seconds for Retry-After; undefined: the same would come again, or nobody knows when it would not (500). */
function retryAfterOf({ retryable, status, retryAfterSeconds }: AppError): number | undefined {
  const usual = retryable && status !== 500 ? defaultRetryAfterSeconds : undefined;
  return retryAfterSeconds ?? usual;
}

export function sendProblem(reply: FastifyReply, error: AppError): FastifyReply {
  const retryAfter = retryAfterOf(error);
  if (retryAfter !== undefined) reply.header('retry-after', String(retryAfter));
  if (error.status === 401) reply.header('www-authenticate', 'Bearer realm="pisa-serve"');
  return reply
    .code(error.status)
    .header('cache-control', 'no-store')
    .type(problemContentType)
    .send(JSON.stringify(toProblem(error)));
}

/** A fault that Fastify itself finds in a request. */
const isClientFault = ({ code, statusCode = 500 }: FastifyError): boolean =>
  code?.startsWith('FST_ERR_') && statusCode < 500;

/** A fault that Fastify itself reports, in the words of our catalogue. */
function fromFastify(error: FastifyError): AppError {
  if (error.code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') {
    return new AppError('unsupported_media_type', 'The Content-Type header is not a media type.', {
      cause: error,
    });
  }
  if (isClientFault(error)) {
    return new AppError('malformed_request', shorten(error.message), { cause: error });
  }
  return toAppError(error);
}

/**
 * What the user caused is logged as `info`: a service under bad requests is not a service in trouble.
 * Redis being away is known from its own connection's log: a warning here is enough.
 */
function logFault(log: FastifyRequest['log'], error: AppError): void {
  const fields = { code: error.code, detail: error.message };
  if (error.status < 500) log.info(fields, 'request refused');
  else if (error.status === 503) log.warn({ ...fields, err: error.cause }, 'request not served');
  else log.error({ ...fields, err: error.cause ?? error }, 'request failed');
}

/** For what a client's key does not allow, or is above its own limits. */
const refusals: ReadonlySet<ErrorCode> = new Set([
  'unauthorized',
  'forbidden',
  'rate_limited',
  'too_many_jobs',
  'too_much_at_once',
]);

function answerFault(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const appError = error instanceof AppError ? error : fromFastify(error as FastifyError);
  logFault(request.log, appError);
  if (refusals.has(appError.code)) {
    metrics.requestsRefused.inc({ code: appError.code, client: request.client.name });
  }
  sendProblem(reply, appError);
}

/** Paths that exist, as patterns, with the methods that each takes. */
class RouteTable {
  private readonly patterns = new Map<string, { matches: RegExp; methods: Set<string> }>();

  add(url: string, methods: readonly string[]): void {
    const known = this.patterns.get(url) ?? {
      matches: new RegExp(`^${url.replace(/[.]/g, '\\.').replace(/:[a-z]+/g, '[^/]+')}$`),
      methods: new Set<string>(),
    };
    for (const method of methods) known.methods.add(method);
    this.patterns.set(url, known);
  }

  /** Methods that the path of `url` takes; none when there is no such path. */
  methodsOf(url: string): string[] {
    const path = url.split('?', 1)[0] ?? '';
    return [...this.patterns.values()].flatMap(({ matches, methods }) =>
      matches.test(path) ? [...methods] : [],
    );
  }
}

/** Call before any route is registered: the 405 answer needs to have seen them all. */
export function registerProblems(app: App): void {
  const routes = new RouteTable();
  app.addHook('onRoute', ({ url, method }) => {
    if (!url.includes('*')) routes.add(url, [method].flat());
  });
  const noRoute = (request: FastifyRequest, reply: FastifyReply): AppError => {
    const methods = routes.methodsOf(request.url);
    if (methods.length === 0) {
      return new AppError(
        'not_found',
        `There is no ${request.method} ${shorten(request.url)}. GET /docs lists all routes.`,
      );
    }
    reply.header('allow', methods.join(', '));
    return new AppError(
      'method_not_allowed',
      `Expected ${methods.join(' or ')} but received ${request.method}.`,
    );
  };
  app.setErrorHandler<FastifyError | AppError>((error, request, reply) => {
    // Fastify looks at the body, and asks QUERY for one, before it says that there is no such route.
    const isBeforeRoute = request.is404 && !(error instanceof AppError) && isClientFault(error);
    answerFault(isBeforeRoute ? noRoute(request, reply) : error, request, reply);
  });
  app.setNotFoundHandler((request, reply) => {
    throw noRoute(request, reply);
  });
}

/** What a client sent may be long. Both ends are kept: in Fastify's messages the path comes first, then its fault. */
const shorten = (text: string): string =>
  text.length > 120 ? `${text.slice(0, 70)}…${text.slice(-50)}` : text;

/** Fastify's `frameworkErrors`: faults found before there is a route, such as a URL that does not decode. */
export function answerFrameworkError(
  error: FastifyError,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  const detail = shorten(error.message);
  // No hook has run, so what they put into every answer is put here.
  reply.headers({ [requestIdHeader]: request.id, 'x-content-type-options': 'nosniff' });
  answerFault(new AppError('malformed_request', detail, { cause: error }), request, reply);
}

/** For an answer to reach the client before its connection is cut, unread bytes and all. */
const lingerMs = 500;

/** Faults of the bare connection, where there is no request to answer: written to the socket by hand. */
export function clientErrorHandler(log: Logger) {
  return (error: ConnectionError, socket: Socket): void => {
    // The client has gone, or an answer is on its way already: nothing that we write would be understood.
    const response = responseOn(socket);
    if (error.code === 'ECONNRESET' || !socket.writable || response?.headersSent) {
      socket.destroy();
      return;
    }
    const appError = fromConnection(error);
    const retryAfter = retryAfterOf(appError);
    const id = response?.getHeader(requestIdHeader) ?? randomUUID();
    log.info({ request: id, code: appError.code, reason: error.code }, 'connection refused');
    const body = JSON.stringify(toProblem(appError));
    socket.end(
      [
        `HTTP/1.1 ${appError.status} ${STATUS_CODES[appError.status]}`,
        `Content-Type: ${problemContentType}`,
        `Content-Length: ${Buffer.byteLength(body)}`,
        'Cache-Control: no-store',
        'X-Content-Type-Options: nosniff',
        `X-Request-Id: ${id}`,
        ...(retryAfter === undefined ? [] : [`Retry-After: ${retryAfter}`]),
        'Connection: close',
        '',
        body,
      ].join('\r\n'),
    );
    // A client that goes on sending would keep its upload alive, and what that holds: Node looks at a request once.
    setTimeout(() => socket.destroy(), lingerMs).unref();
  };
}

/** The response to the request that is under way on this socket, where Node keeps it; undefined: none. */
function responseOn(socket: Socket): ServerResponse | undefined {
  return (socket as { _httpMessage?: ServerResponse | null })._httpMessage ?? undefined;
}

function fromConnection(error: ConnectionError): AppError {
  switch (error.code) {
    case 'HPE_HEADER_OVERFLOW':
      return new AppError(
        'headers_too_large',
        'The request line and headers together may have 16 KiB.',
      );
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new AppError(
        'request_timeout',
        'The request did not arrive in time. Send it again over a faster connection, or a smaller image.',
      );
    default:
      return new AppError('malformed_request', 'This is not a valid HTTP request.');
  }
}
