/** The process's logger: JSON lines, or readable ones when a person watches on a terminal. Always on stderr. */
import { type Logger, pino } from 'pino';
import pretty from 'pino-pretty';
import type { Config } from '../config.ts';

export function createLogger(config: Config, name: string): Logger {
  const options = { level: config.LOG_LEVEL, name, base: { pid: process.pid } };
  if (!process.stderr.isTTY) return pino(options, pino.destination({ dest: 2, sync: false }));
  return pino(
    options,
    pretty({ destination: 2, sync: true, ignore: 'pid,hostname,name', translateTime: 'HH:MM:ss' }),
  );
}
