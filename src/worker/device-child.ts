/** One life of a device process: fork, start, talk, last words. `Device` decides when it ends and the next begins. */
import { type ChildProcess, fork } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';
import type { Logger } from 'pino';
import { childEnvironment } from '../config.ts';
import { AppError } from '../errors.ts';
import type { DeviceSettings, FromDevice, ToDevice } from './protocol.ts';
import { visibleGpu } from './visible-gpu.ts';

/** Enough for a stack trace or a complaint of the runtime. */
const keptLines = 20;

/**
 * After a fault of its GPU a process may wait for the driver where SIGKILL does not reach it (state D), until the machine is
 * started again. Others end in less, with gigabytes to free; and a shutdown has twice as long for closing.
 */
const killMs = 5000;

/** ONNX Runtime also throws what it logs behind time, level and place. */
const saidIn = (line: string): string => line.replace(/^\S+ \S+ \[E:onnxruntime:[^\]]*\] /, '');

export interface ChildExit {
  /** In words: "exit code 1", "signal SIGKILL", "does not end". */
  how: string;
  lastLines: string[];
}

export type MessageOfRun = Exclude<FromDevice, { type: 'ready' | 'unusable' }>;

export interface DeviceChildOptions {
  /** Compiled `device-main.js`. */
  program: string;
  settings: DeviceSettings;
  /** Time limit of the start. */
  startMs: number;
  logger: Logger;
  onMessage: (message: MessageOfRun) => void;
}

export class DeviceChild {
  /**
   * Resolves when the models that it starts with are loaded and warmed up.
   * Rejects with device_unavailable | out_of_device_memory | model_too_large | invalid_bundle when the process ends
   * before that.
   */
  readonly ready: Promise<void>;
  /** Resolves when the process has ended, or some seconds after it was killed in vain. */
  readonly exited: Promise<ChildExit>;
  /** Resolves when the process has ended, and what it held is free. */
  readonly gone: Promise<ChildExit>;
  isGone = false;
  /** When it last said anything, in `performance.now()` milliseconds. */
  heardAt = performance.now();
  readonly #options: DeviceChildOptions;
  readonly #process: ChildProcess;
  readonly #lastLines: string[] = [];
  #giveUp = () => {};
  #killTimer: NodeJS.Timeout | undefined;
  /** Why it cannot start, when it said so itself or we lost patience. */
  #unusable: AppError | undefined;

  constructor(options: DeviceChildOptions) {
    this.#options = options;
    const environment = childEnvironment();
    const gpu = visibleGpu(options.settings.device, environment.CUDA_VISIBLE_DEVICES);
    this.#process = fork(options.program, [], {
      serialization: 'advanced',
      execArgv: [],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      // Two malloc arenas: the default, eight per core, keeps image-sized buffers that nobody uses.
      // And ONNX Runtime reports to its makers unless it is told not to.
      // CUDA counts its devices by speed unless told otherwise; nvidia-smi, which tells their memory, by slot.
      env: {
        CUDA_DEVICE_ORDER: 'PCI_BUS_ID',
        ...environment,
        ...(gpu === undefined ? {} : { CUDA_VISIBLE_DEVICES: gpu }),
        MALLOC_ARENA_MAX: '2',
        ORT_DISABLE_TELEMETRY: '1',
      },
    });
    this.#keepLines(this.#process.stdout);
    this.#keepLines(this.#process.stderr);
    this.gone = this.#untilGone();
    this.exited = this.#untilExit();
    this.ready = this.#untilReady();
    this.send({ type: 'start', settings: options.settings });
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  send(message: ToDevice): void {
    // A send that fails means that the process is ending; `exited` tells the rest.
    if (this.#process.connected) this.#process.send(message, () => {});
  }

  kill(): void {
    if (this.isGone) return;
    this.#process.kill('SIGKILL');
    this.#killTimer ??= setTimeout(this.#giveUp, killMs);
  }

  #untilExit(): Promise<ChildExit> {
    return new Promise((resolve) => {
      this.#giveUp = () => resolve({ how: 'does not end', lastLines: this.#lastLines });
      void this.gone.then((exit) => {
        this.isGone = true;
        clearTimeout(this.#killTimer);
        resolve(exit);
      });
    });
  }

  #untilGone(): Promise<ChildExit> {
    return new Promise((resolve) => {
      let how = '';
      this.#process.on('exit', (code, signal) => {
        how = signal ? `signal ${signal}` : `exit code ${code}`;
      });
      this.#process.on('error', (error) => {
        if (this.#process.pid === undefined) resolve({ how: error.message, lastLines: [] });
      });
      // `close` comes after `exit`, when all that it wrote has been read.
      this.#process.on('close', () => resolve({ how, lastLines: this.#lastLines }));
    });
  }

  #untilReady(): Promise<void> {
    const { startMs, settings, onMessage } = this.#options;
    return new Promise((resolve, reject) => {
      const tooLong = setTimeout(() => {
        this.#unusable = new AppError(
          'device_unavailable',
          `The device ${settings.device} was not ready within ${startMs / 1000} s. DEVICE_START_SECONDS allows for more.`,
        );
        this.kill();
      }, startMs);
      this.#process.on('message', (message: FromDevice) => {
        this.heardAt = performance.now();
        if (message.type === 'ready') {
          clearTimeout(tooLong);
          resolve();
        } else if (message.type === 'unusable') {
          const { code, detail } = message.failure;
          this.#unusable = new AppError(code, detail, { cause: message.cause });
        } else onMessage(message);
      });
      void this.exited.then((exit) => {
        clearTimeout(tooLong);
        reject(this.#startFailure(exit));
      });
    });
  }

  /** Tells what it wrote, too: which library it missed, for one, ONNX Runtime says on stderr alone. */
  #startFailure({ how, lastLines }: ChildExit): AppError {
    const { device } = this.#options.settings;
    const { code, message, cause } =
      this.#unusable ??
      new AppError(
        'device_unavailable',
        `The process of device ${device} ended during its start (${how}).`,
      );
    const untold = lastLines.filter((line) => !message.includes(saidIn(line)));
    const words = untold.length > 0 ? ` The last words of its process:\n${untold.join('\n')}` : '';
    return new AppError(code, message + words, { cause });
  }

  #keepLines(stream: Readable | null): void {
    if (!stream) return;
    createInterface({ input: stream }).on('line', (written) => {
      // ONNX Runtime colours its complaints.
      const line = stripVTControlCharacters(written).trimEnd();
      if (line === '') return;
      this.#lastLines.push(line);
      if (this.#lastLines.length > keptLines) this.#lastLines.shift();
      this.#options.logger.debug({ line }, 'the device process wrote');
    });
  }
}
