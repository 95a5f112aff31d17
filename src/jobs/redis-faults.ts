/** What errors of Redis mean: it is away, it refuses writes, or it forbids its user something. */
import { AppError } from '../errors.ts';

/** What the service does needs these rules of Redis's ACL (docs/operations.md). */
const neededRules = '~bull:* ~pisa:* &pisa:* +@all -@dangerous';

const connectionErrorNames = new Set(['MaxRetriesPerRequestError', 'AbortError', 'ReplyError']);
const connectionErrorText =
  /connection is closed|stream isn't writeable|command timed out|ECONN|EPIPE|ENOENT|ETIMEDOUT|EHOSTUNREACH|ENOTFOUND|EAI_AGAIN/i;

/**
 * Its disk or memory is full, or it is a replica. A script ends with the same text, in older versions amid its own; what
 * follows the first sentence is advice for whoever set Redis up.
 */
const refusedWrite = /\b(?:MISCONF|OOM|READONLY) (.+?)(?:\.?\s*$|\.\s| script: )/;

/**
 * Runs a Redis operation of the api.
 * @throws redis_unavailable when Redis is away (or is loading its data), refuses writes or forbids it
 */
export async function orUnavailable<T>(operation: () => Promise<T>): Promise<T> {
  try {
    return await operation();
  } catch (error) {
    if (!isRedisFault(error)) throw error;
    const rule = forbidden(error);
    const reason = rule ?? refusal(error);
    if (reason === undefined) {
      throw new AppError(
        'redis_unavailable',
        'The queue cannot be reached at the moment. Try again in a few seconds.',
        { cause: error, retryAfterSeconds: 5 },
      );
    }
    throw new AppError(
      'redis_unavailable',
      `Redis ${rule === undefined ? 'refuses writes' : 'forbids what this takes'}: ${reason}. Try again in a minute; its operator has to see to that.`,
      { cause: error, retryAfterSeconds: 30 },
    );
  }
}

/** @returns the error; one of what Redis forbids, in words for its operator */
export function explainForbidden(error: unknown): unknown {
  const rule = forbidden(error);
  if (rule === undefined) return error;
  return new AppError(
    'invalid_config',
    `Redis forbids the user of REDIS_URL what the service does: ${rule}. It needs the rules ${neededRules} (docs/operations.md).`,
    { cause: error },
  );
}

/** True when Redis refuses a write because its disk or memory is full. */
export const isFull = (error: unknown): boolean =>
  textsOf(error).some((text) => /\b(?:MISCONF|OOM) /.test(text));

/** Why Redis refused to write, in its own words. */
export function refusal(error: Error): string | undefined {
  return textsOf(error)
    .map((text) => refusedWrite.exec(text)?.[1])
    .find((reason) => reason !== undefined);
}

/** What its ACL forbids, in its own words. */
export const forbidden = (error: unknown): string | undefined =>
  textsOf(error).find((text) => text.startsWith('NOPERM '));

function isRedisFault(error: unknown): error is Error {
  if (!(error instanceof Error) || error instanceof AppError) return false;
  return connectionErrorNames.has(error.name) || connectionErrorText.test(error.message);
}

/** What Redis says. A transaction has its reason in the errors of its commands. */
function textsOf(error: unknown): string[] {
  if (!(error instanceof Error)) return [];
  const { previousErrors = [] } = error as { previousErrors?: Error[] };
  return [error, ...previousErrors].map(({ message }) => message);
}
