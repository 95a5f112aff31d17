/** Who sends a request, and what that client may do. */
import type { IncomingHttpHeaders } from 'node:http';
import type { Config } from '../../config.ts';
import { AppError } from '../../errors.ts';
import type { JobPriority } from '../../jobs/job.ts';
import type { ApiKeys } from './api-keys.ts';

export interface Client {
  /** The name of its key. `anyone` where no key is asked for: then there is one owner of everything. */
  readonly name: string;
  /** What its limits are counted by: its name, or its address where no key is asked for. */
  readonly countedAs: string;
  /** 0: no limit. */
  readonly requestsPerMinute: number;
  /** Jobs that have not ended. 0: no limit. */
  readonly concurrentJobs: number;
  /** Absent: all. */
  readonly priorities?: readonly JobPriority[];
}

/** How a job counts among those of a client, for `UpscaleQueue.submit`. */
export const countedFor = ({ countedAs, concurrentJobs }: Client) => ({
  client: countedAs,
  concurrentJobs,
});

type Defaults = Pick<Config, 'REQUESTS_PER_MINUTE_PER_CLIENT' | 'CONCURRENT_JOBS_PER_CLIENT'>;

/**
 * @param keys undefined: no key is asked for, and one that is sent is not looked at
 * @throws unauthorized | forbidden
 */
export function identify(
  keys: ApiKeys | undefined,
  headers: IncomingHttpHeaders,
  address: string,
  defaults: Defaults,
): Client {
  const limits = {
    requestsPerMinute: defaults.REQUESTS_PER_MINUTE_PER_CLIENT,
    concurrentJobs: defaults.CONCURRENT_JOBS_PER_CLIENT,
  };
  if (!keys) return { name: 'anyone', countedAs: `address/${address}`, ...limits };
  const sent = sentKey(headers);
  if (sent === undefined) {
    throw new AppError(
      'unauthorized',
      'This service asks for an API key: send "Authorization: Bearer <key>".',
    );
  }
  const key = keys.find(sent);
  if (!key) throw new AppError('unauthorized', 'The API key is not one of this service.');
  if (key.expires_at !== undefined && Date.parse(key.expires_at) <= Date.now()) {
    throw new AppError('forbidden', `The API key expired at ${key.expires_at}.`);
  }
  return {
    name: key.name,
    countedAs: `key/${key.name}`,
    requestsPerMinute: key.requests_per_minute ?? limits.requestsPerMinute,
    concurrentJobs: key.concurrent_jobs ?? limits.concurrentJobs,
    ...(key.priorities ? { priorities: key.priorities } : {}),
  };
}

function sentKey(headers: IncomingHttpHeaders): string | undefined {
  const bearer = /^Bearer +(\S+) *$/i.exec(headers.authorization ?? '')?.[1];
  return bearer ?? headers['x-api-key']?.toString();
}

/** @throws forbidden */
export function checkPriority({ name, priorities }: Client, priority: JobPriority): void {
  if (!priorities || priorities.includes(priority)) return;
  throw new AppError(
    'forbidden',
    `The key of ${name} may send jobs of priority ${priorities.join(', ') || 'none'} only, not ${priority}.`,
  );
}
