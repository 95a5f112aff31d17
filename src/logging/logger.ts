/**
 * The process's logger: JSON lines, or readable ones when a person watches on a terminal. Always on stderr. What a
 * line may not tell is taken out here, whoever writes it.
 */
import { type Logger, type LoggerOptions, pino } from 'pino';
import pretty from 'pino-pretty';
import type { Config } from '../config.ts';
import { createScrub } from './scrub.ts';
import { serializeError } from './serialize-error.ts';

type SecretSettings = Pick<Config, 'WEBHOOK_SECRET' | 'S3_SECRET_ACCESS_KEY' | 'REDIS_URL'>;

/** Header names of a request or an answer, should one ever be logged whole. */
const secretHeaders = ['authorization', 'cookie', 'set-cookie', 'x-api-key', 'webhook-signature'];

export function loggerOptions(
  config: SecretSettings & Pick<Config, 'LOG_LEVEL'>,
  name: string,
): LoggerOptions {
  return {
    level: config.LOG_LEVEL,
    name,
    base: { pid: process.pid },
    serializers: { err: serializeError },
    redact: {
      paths: secretHeaders.flatMap((header) => [
        `["${header}"]`,
        `headers["${header}"]`,
        `*.headers["${header}"]`,
      ]),
      censor: '[redacted]',
    },
    hooks: { streamWrite: createScrub(secretsOf(config)) },
  };
}

function secretsOf({ WEBHOOK_SECRET, S3_SECRET_ACCESS_KEY, REDIS_URL }: SecretSettings): string[] {
  const password = URL.canParse(REDIS_URL) ? new URL(REDIS_URL).password : '';
  return [
    ...WEBHOOK_SECRET.map((secret) => secret.replace(/^whsec_/, '')),
    S3_SECRET_ACCESS_KEY,
    password,
    decoded(password),
  ];
}

/** What it is when it is not percent-encoded, redisOptions says, which needs a logger. */
function decoded(password: string): string {
  try {
    return decodeURIComponent(password);
  } catch {
    return password;
  }
}

export function createLogger(config: Config, name: string): Logger {
  const options = loggerOptions(config, name);
  if (!process.stderr.isTTY) return pino(options, pino.destination({ dest: 2, sync: false }));
  return pino(
    options,
    pretty({ destination: 2, sync: true, ignore: 'pid,hostname,name', translateTime: 'HH:MM:ss' }),
  );
}
