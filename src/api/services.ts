/** What the routes stand on; the caller of `buildApp` opens and closes it. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type {
  FastifyInstance,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import type { UpscaleQueue } from '../jobs/queue.ts';
import type { ObjectStore } from '../storage/object-store.ts';
import type { ClientShare } from './clients/client-share.ts';
import type { ImageFetches } from './image-fetches.ts';
import type { UploadBudget } from './upload-budget.ts';

export interface Services {
  readonly config: Config;
  readonly queue: UpscaleQueue;
  /** Where results are read from; the queue writes the uploads. */
  readonly store: ObjectStore;
  /** How many are on their way to each client. */
  readonly results: ClientShare;
  /** Fetches what `image_url` names. */
  readonly imageFetches: ImageFetches;
  /** Memory for the uploads of all requests. */
  readonly uploadBudget: UploadBudget;
  /** Aborted once load balancers shall look elsewhere: everything is still served, but `/readyz` says no. */
  readonly leaving: AbortSignal;
  /** Aborted once the service is closing: requests that wait for a job are then answered as it stands. */
  readonly closing: AbortSignal;
}

export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  Logger,
  TypeBoxTypeProvider
>;
