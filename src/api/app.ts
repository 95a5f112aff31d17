/** Builds the HTTP API: plugins, routes, hooks. Never listens: `server.ts` does. */
import { setMaxListeners } from 'node:events';
import accepts from '@fastify/accepts';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import Fastify, { LogController } from 'fastify';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import type { UpscaleQueue } from '../jobs/queue.ts';
import type { ObjectStore } from '../storage/object-store.ts';
import { ApiKeys } from './clients/api-keys.ts';
import { ClientShare, streamsOf } from './clients/client-share.ts';
import { registerClients } from './clients/register-clients.ts';
import { registerDocs } from './docs.ts';
import { registerJobIds } from './find-job.ts';
import { ImageFetches } from './image-fetches.ts';
import { registerOpenapi } from './openapi.ts';
import { registerPlayground } from './playground.ts';
import { answerFrameworkError, clientErrorHandler, registerProblems } from './problems.ts';
import { registerRequestLog, requestId } from './request-log.ts';
import { registerRequestTrace } from './request-trace.ts';
import { adjustUpscale } from './routes/adjust-upscale.ts';
import { createUpscale } from './routes/create-upscale.ts';
import { deleteUpscale } from './routes/delete-upscale.ts';
import { getHeatmap } from './routes/get-heatmap.ts';
import { getUpscale } from './routes/get-upscale.ts';
import { getUpscaleEvents } from './routes/get-upscale-events.ts';
import { getUpscaleResult } from './routes/get-upscale-result.ts';
import { healthz } from './routes/healthz.ts';
import { listModels } from './routes/list-models.ts';
import { metricsRoute } from './routes/metrics.ts';
import { readyz } from './routes/readyz.ts';
import { sweepUpscale } from './routes/sweep-upscale.ts';
import type { App, Services } from './services.ts';
import { announcesBody, registerUnreadBodies } from './unread-body.ts';
import { UploadBudget } from './upload-budget.ts';
import { registerValidation } from './validation.ts';

export interface AppOptions {
  config: Config;
  queue: UpscaleQueue;
  store: ObjectStore;
  logger: Logger;
  /** Aborted when load balancers shall stop sending requests here; those that come are still served. */
  leaving?: AbortSignal;
}

/** More than a request line can have (16 KiB, with the headers): an id of any length reaches its check (find-job.ts). */
const maxParamLength = 16_384;
/** Headers are small: one that takes longer than this to arrive is kept open on purpose. */
const headersTimeoutMs = 15_000;
/** How often Node looks for requests past their time. */
const timeoutCheckMs = 1000;
const idleMarginMs = 60_000;

/** A connection on which nothing moves for longer than any request may take is given up. */
function longestSilenceMs(config: Config): number {
  const { REQUEST_TIMEOUT_SECONDS, IMAGE_URL_TIMEOUT_SECONDS, MAX_WAIT_SECONDS } = config;
  const seconds = REQUEST_TIMEOUT_SECONDS + IMAGE_URL_TIMEOUT_SECONDS + MAX_WAIT_SECONDS;
  return seconds * 1000 + idleMarginMs;
}

/** @throws invalid_config for a faulty API_KEYS_FILE */
export async function buildApp({
  config,
  queue,
  store,
  logger,
  leaving = new AbortController().signal,
}: AppOptions): Promise<App> {
  const keys =
    config.API_KEYS_FILE === '' ? undefined : await ApiKeys.open(config.API_KEYS_FILE, logger);
  const requestTimeout = config.REQUEST_TIMEOUT_SECONDS * 1000;
  const app: App = Fastify({
    loggerInstance: logger,
    // One line for each request, ours: request-log.ts.
    logController: new LogController({
      disableRequestLogging: true,
      // As in every other line about the request.
      requestIdLogLabel: 'request',
    }),
    genReqId: requestId,
    routerOptions: { maxParamLength },
    requestTimeout,
    connectionTimeout: longestSilenceMs(config),
    keepAliveTimeout: config.KEEP_ALIVE_SECONDS * 1000,
    http: {
      headersTimeout: Math.min(headersTimeoutMs, requestTimeout),
      connectionsCheckingInterval: timeoutCheckMs,
      // Checked below, so that its answer is a problem object too.
      requireHostHeader: false,
    },
    // Node would answer these by itself, without a problem object.
    frameworkErrors: answerFrameworkError,
    clientErrorHandler: clientErrorHandler(logger),
    // Refused below, as a problem object.
    return503OnClosing: false,
    forceCloseConnections: 'idle',
  }).withTypeProvider<TypeBoxTypeProvider>();

  registerRequestTrace(app);
  registerRequestLog(app);
  registerProblems(app);
  registerValidation(app);
  const services: Services = {
    config,
    queue,
    store,
    results: new ClientShare(streamsOf(config), 'results on their way'),
    imageFetches: new ImageFetches(config),
    uploadBudget: new UploadBudget(config),
    leaving,
    closing: registerClosing(app, leaving),
  };
  registerUnreadBodies(app);
  registerRequestChecks(app);
  registerJobIds(app);
  registerClients(app, services, keys);
  app.addHook('onClose', async () => keys?.close());
  await app.register(accepts);
  await registerOpenapi(app);
  await registerDocs(app);
  await registerPlayground(app);

  createUpscale(app, services);
  getUpscale(app, services);
  getUpscaleResult(app, services);
  getUpscaleEvents(app, services);
  deleteUpscale(app, services);
  adjustUpscale(app, services);
  sweepUpscale(app, services);
  getHeatmap(app, services);
  listModels(app, services);
  healthz(app);
  readyz(app, services);
  metricsRoute(app, services);
  return app;
}

function registerRequestChecks(app: App): void {
  // Bodies are read by the routes that take one, as a stream (upload.ts): never parsed into values.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, _payload, done) => done(null));
  app.setSerializerCompiler(() => (body) => JSON.stringify(body));
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-content-type-options', 'nosniff');
    if (request.raw.httpVersion === '1.1' && request.headers.host === undefined) {
      throw new AppError('malformed_request', 'An HTTP/1.1 request needs a Host header.');
    }
    // Some clients write the header without a body to name the type of, where Fastify takes it for a wrong type.
    const { headers } = request.raw;
    if (headers['content-type'] === '' && !announcesBody(headers)) delete headers['content-type'];
  });
  // `upload.ts` says "continue" when everything that can be checked before the upload has been.
  app.server.on('checkContinue', (request, response) =>
    app.server.emit('request', request, response),
  );
  // An expectation that we do not know may be ignored (RFC 9110, section 10.1.1).
  app.server.on('checkExpectation', (request, response) =>
    app.server.emit('request', request, response),
  );
}

/**
 * Once leaving, every answer ends its connection, so that clients open their next one elsewhere. Once closing,
 * requests that wait are answered and new ones on old connections are refused as well, so that `close()` does not
 * wait for keep-alive to run out.
 */
function registerClosing(app: App, leaving: AbortSignal): AbortSignal {
  const closing = new AbortController();
  // One listener for each request that waits.
  setMaxListeners(0, closing.signal);
  app.addHook('preClose', async () => closing.abort());
  app.addHook('onRequest', async () => {
    if (closing.signal.aborted) {
      throw new AppError('shutting_down', 'Send the request again: another instance takes it.', {
        retryAfterSeconds: 1,
      });
    }
  });
  app.addHook('onSend', async (_request, reply) => {
    if (leaving.aborted || closing.signal.aborted) reply.header('connection', 'close');
  });
  return closing.signal;
}
