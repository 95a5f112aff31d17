/**
 * The bundles that a device could not open: it has them, and yet no job would get anything of them. Each counts until it
 * opens or its files change, whatever process stands for the device by then.
 */
import path from 'node:path';
import type { Logger } from 'pino';
import { bundleStamp } from './bundle-stamp.ts';
import type { UnopenedModel } from './protocol.ts';

export interface UnopenedModelsOptions {
  modelsDir: string;
  logger: Logger;
  /** Told when one has come or gone. */
  onChange: () => void;
}

export class UnopenedModels {
  readonly #options: UnopenedModelsOptions;
  /** Of their files when they could not be opened. */
  readonly #stamps = new Map<string, string>();
  #isLooking = false;

  constructor(options: UnopenedModelsOptions) {
    this.#options = options;
  }

  has(model: string): boolean {
    return this.#stamps.has(model);
  }

  /** Says so in the log, once for the same files. */
  note({ model, stamp, detail }: UnopenedModel): void {
    if (this.#stamps.get(model) === stamp) return;
    this.#stamps.set(model, stamp);
    const { logger, onChange } = this.#options;
    logger.error({ model, detail }, 'the model cannot be opened, and is not offered as it is');
    onChange();
  }

  /** It could be opened, or may be by now. */
  forget(model: string): void {
    if (!this.#stamps.delete(model)) return;
    this.#options.logger.info({ model }, 'the model is offered again');
    this.#options.onChange();
  }

  /** Forgets those whose files have changed. Never two at once: a network file system may be away for long. */
  async lookAgain(): Promise<void> {
    if (this.#isLooking) return;
    this.#isLooking = true;
    for (const [model, stamp] of [...this.#stamps]) {
      const now = await bundleStamp(path.join(this.#options.modelsDir, model));
      if (now !== stamp && this.#stamps.get(model) === stamp) this.forget(model);
    }
    this.#isLooking = false;
  }
}
