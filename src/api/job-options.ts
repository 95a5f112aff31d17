/** What a request may ask of its job besides the dials: how long its result lives, its time limit, its priority, who is told. */
import Type, { type Static, type TSchema } from 'typebox';
import type { Config } from '../config.ts';
import { AppError, expected } from '../errors.ts';
import { jobPriorities, type UpscaleJobData } from '../jobs/job.ts';
import { oneOf } from '../jobs/params.ts';
import type { Webhook } from '../jobs/webhook.ts';
import { AddressPolicy } from '../net/address-policy.ts';
import { checkUrl } from '../net/checked-url.ts';

export const jobOptions = {
  ttl: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 31_536_000,
      description:
        'Life of the result, in seconds after it is finished; at most MAX_RESULT_TTL_SECONDS. Default: the RESULT_TTL_SECONDS setting.',
    }),
  ),
  timeout: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 86_400,
      description:
        'Time limit of one attempt, in seconds; at most JOB_TIMEOUT_SECONDS. Default: that setting.',
    }),
  ),
  webhook: Type.Optional(
    Type.String({
      format: 'uri',
      description:
        'https URL that gets a signed POST when the job has ended (docs/webhooks.md). At a public address, or at a host of WEBHOOK_ALLOWED_HOSTS, which may take plain http too.',
    }),
  ),
  priority: Type.Optional(
    oneOf(jobPriorities, {
      default: 'interactive',
      description: 'batch: runs when no interactive job waits.',
    }),
  ),
};

/**
 * The schema of a parameter of a job that is made from another one, whose value holds where none is given: a generated
 * client must not fill in the default that a first job has.
 */
export function asInSource<T extends TSchema & { description?: string }>(schema: T) {
  const { default: _, description = '', ...rest } = schema as T & { default?: unknown };
  const own = description.replace(/ Default: .*$/, '');
  return Type.Optional(
    Type.Unsafe<Static<T>>({ ...rest, description: `${own} Default: as in the job of the path.` }),
  );
}

/** Those of a job that is made from another one. */
export const derivedJobOptions = {
  ttl: asInSource(jobOptions.ttl),
  timeout: asInSource(jobOptions.timeout),
  webhook: jobOptions.webhook,
  priority: asInSource(jobOptions.priority),
};

export type JobOptions = Type.Static<Type.TObject<typeof jobOptions>>;

/** The longest life that a result can have, in seconds. */
export const longestTtlSeconds = (
  config: Pick<Config, 'RESULT_TTL_SECONDS' | 'MAX_RESULT_TTL_SECONDS'>,
): number => Math.max(config.RESULT_TTL_SECONDS, config.MAX_RESULT_TTL_SECONDS);

type JobChoices = Required<Pick<UpscaleJobData, 'ttlSeconds' | 'timeoutMs' | 'priority'>> &
  Pick<UpscaleJobData, 'webhook'>;

/**
 * @param source the job that this one is made from: what is not asked for is as there, within today's settings
 * @throws invalid_parameter when more is asked than the settings allow; url_not_allowed
 */
export function resolveJobOptions(
  { ttl, timeout, webhook, priority }: JobOptions,
  config: Config,
  source?: Pick<UpscaleJobData, 'ttlSeconds' | 'timeoutMs' | 'priority'>,
): JobChoices {
  const longest = longestTtlSeconds(config);
  const usualTtl = source?.ttlSeconds ?? config.RESULT_TTL_SECONDS;
  const limit = config.JOB_TIMEOUT_SECONDS;
  const usualTimeout = (source?.timeoutMs ?? limit * 1000) / 1000;
  return {
    ttlSeconds: atMost('ttl', ttl, longest) ?? Math.min(usualTtl, longest),
    timeoutMs: (atMost('timeout', timeout, limit) ?? Math.min(usualTimeout, limit)) * 1000,
    priority: priority ?? source?.priority ?? 'interactive',
    ...(webhook === undefined ? {} : { webhook: resolveWebhook(webhook, config) }),
  };
}

function resolveWebhook(url: string, config: Config): Webhook {
  if (config.WEBHOOK_SECRET.length === 0) {
    const detail =
      'This service sends no webhooks: it has no WEBHOOK_SECRET to sign them with. Follow GET /upscale/{id}/events instead';
    throw new AppError('invalid_parameter', `${detail}.`, {
      errors: [{ pointer: '#/query/webhook', detail }],
    });
  }
  const policy = new AddressPolicy(config.WEBHOOK_ALLOWED_HOSTS);
  return {
    url: checkUrl(url, { policy, plainHttp: 'listed' }).href,
    attempts: config.WEBHOOK_RETRY_SECONDS.length + 1,
  };
}

function atMost(name: string, value: number | undefined, limit: number): number | undefined {
  if (value === undefined || value <= limit) return value;
  const detail = expected(`at most ${limit} seconds, the limit of this service,`, name, value);
  throw new AppError('invalid_parameter', `${detail}.`, {
    errors: [{ pointer: `#/query/${name}`, detail }],
  });
}
