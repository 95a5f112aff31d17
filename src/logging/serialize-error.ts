/**
 * An error as the log shows it: its kind, message, stack, causes, and the few facts that tell what happened. Not
 * whatever else a library hangs on it: a failed Redis command has its arguments, of AUTH the password; an S3 error
 * has the request with its signature.
 */
const telling = ['code', 'errno', 'syscall', 'address', 'port', 'statusCode'] as const;
const deepestCause = 4;

interface LoggedError {
  type: string;
  message: string;
  stack?: string;
  cause?: unknown;
  [fact: string]: unknown;
}

/** @returns the value itself when it is no error */
export function serializeError(error: unknown, depth = 0): unknown {
  if (!(error instanceof Error)) return error;
  const facts = Object.fromEntries(
    telling.flatMap((name) => {
      const value = (error as Error & Record<string, unknown>)[name];
      return typeof value === 'string' || typeof value === 'number' ? [[name, value]] : [];
    }),
  );
  const logged: LoggedError = { type: error.name, message: error.message, ...facts };
  if (error.stack !== undefined) logged.stack = error.stack;
  if (error.cause !== undefined && depth < deepestCause) {
    logged.cause = serializeError(error.cause, depth + 1);
  }
  return logged;
}
