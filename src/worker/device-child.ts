/** One life of a device process: fork, talk, last words. `Device` decides when one ends and the next begins. */
import { type ChildProcess, fork } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import type { Logger } from 'pino';
import { childEnvironment } from '../config.ts';
import type { DeviceSettings, FromDevice, ToDevice } from './protocol.ts';

/** Enough for a stack trace or a complaint of the runtime. */
const keptLines = 20;

export interface ChildExit {
  /** In words: "exit code 1", "signal SIGKILL". */
  how: string;
  lastLines: string[];
}

export class DeviceChild {
  readonly #process: ChildProcess;
  readonly #lastLines: string[] = [];
  readonly exited: Promise<ChildExit>;
  /** When it last said anything, in `performance.now()` milliseconds. */
  heardAt = performance.now();

  /** @param program compiled `device-main.js` */
  constructor(
    program: string,
    settings: DeviceSettings,
    logger: Logger,
    onMessage: (message: FromDevice) => void,
  ) {
    this.#process = fork(program, [], {
      serialization: 'advanced',
      execArgv: [],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      // Two malloc arenas: the default, eight per core, keeps image-sized buffers that nobody uses.
      env: { ...childEnvironment(), MALLOC_ARENA_MAX: '2' },
    });
    this.#process.on('message', (message: FromDevice) => {
      this.heardAt = performance.now();
      onMessage(message);
    });
    this.#keepLines(this.#process.stdout, logger);
    this.#keepLines(this.#process.stderr, logger);
    this.exited = new Promise((resolve) => {
      let how = '';
      // `close` comes after `exit`, when all that it wrote has been read.
      this.#process.on('exit', (code, signal) => {
        how = signal ? `signal ${signal}` : `exit code ${code}`;
      });
      this.#process.on('error', (error) => {
        how = error.message;
        if (this.#process.pid === undefined) resolve({ how, lastLines: [] });
      });
      this.#process.on('close', () => resolve({ how, lastLines: this.#lastLines }));
    });
    this.send({ type: 'start', settings });
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  send(message: ToDevice): void {
    // A send that fails means that the process is ending; `exited` tells the rest.
    if (this.#process.connected) this.#process.send(message, () => {});
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }

  #keepLines(stream: Readable | null, logger: Logger): void {
    if (!stream) return;
    createInterface({ input: stream }).on('line', (line) => {
      this.#lastLines.push(line);
      if (this.#lastLines.length > keptLines) this.#lastLines.shift();
      logger.debug({ line }, 'the device process wrote');
    });
  }
}
