/** What a request may ask of its job besides the dials: how long its result lives, its time limit, its priority. */
import Type from 'typebox';
import type { Config } from '../config.ts';
import { AppError, expected } from '../errors.ts';
import { jobPriorities, type UpscaleJobData } from '../jobs/job.ts';

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
        'Time limit of one attempt, in seconds; at most, and by default, the JOB_TIMEOUT_SECONDS setting.',
    }),
  ),
  priority: Type.Optional(
    Type.Unsafe<(typeof jobPriorities)[number]>({
      type: 'string',
      enum: [...jobPriorities],
      default: 'interactive',
      description: 'batch: runs when no interactive job waits.',
    }),
  ),
};

type JobOptions = Type.Static<Type.TObject<typeof jobOptions>>;

/** The longest life that a result can have, in seconds. */
export const longestTtlSeconds = (
  config: Pick<Config, 'RESULT_TTL_SECONDS' | 'MAX_RESULT_TTL_SECONDS'>,
): number => Math.max(config.RESULT_TTL_SECONDS, config.MAX_RESULT_TTL_SECONDS);

/** @throws invalid_parameter when more is asked than the settings allow */
export function resolveJobOptions(
  { ttl, timeout, priority = 'interactive' }: JobOptions,
  config: Config,
): Required<Pick<UpscaleJobData, 'ttlSeconds' | 'timeoutMs' | 'priority'>> {
  const timeoutSeconds = config.JOB_TIMEOUT_SECONDS;
  return {
    ttlSeconds: atMost('ttl', ttl, longestTtlSeconds(config)) ?? config.RESULT_TTL_SECONDS,
    timeoutMs: (atMost('timeout', timeout, timeoutSeconds) ?? timeoutSeconds) * 1000,
    priority,
  };
}

function atMost(name: string, value: number | undefined, limit: number): number | undefined {
  if (value === undefined || value <= limit) return value;
  const detail = expected(`at most ${limit} seconds, the limit of this service,`, name, value);
  throw new AppError('invalid_parameter', `${detail}.`, {
    errors: [{ pointer: `#/query/${name}`, detail }],
  });
}
