/** The models that are in the memory of one device process: what its metrics and the log say of them. */
import type { Logger } from 'pino';
import { metrics } from '../metrics.ts';
import type { ModelChange } from './protocol.ts';

export class DeviceModels {
  readonly #device: string;
  readonly #logger: Logger;
  readonly #loaded = new Set<string>();

  constructor(device: string, logger: Logger) {
    this.#device = device;
    this.#logger = logger;
  }

  note({ model, bytes, milliseconds }: ModelChange): void {
    if (bytes === 0) {
      this.#forget(model);
      metrics.modelUnloads.inc({ device: this.#device, model });
      this.#logger.info({ model }, 'model unloaded, to make room for another');
      return;
    }
    this.#loaded.add(model);
    metrics.modelMemoryBytes.set({ device: this.#device, model }, bytes);
    metrics.modelLoadSeconds.observe({ model }, milliseconds / 1000);
    this.#logger.info({ model, bytes, milliseconds: Math.round(milliseconds) }, 'model loaded');
  }

  /** The process has ended, and its memory with it. */
  clear(): void {
    for (const model of this.#loaded) this.#forget(model);
  }

  #forget(model: string): void {
    this.#loaded.delete(model);
    metrics.modelMemoryBytes.remove({ device: this.#device, model });
  }
}
