/** The devices of a worker and who may use which: a job gets a slot on the least busy one. */
import type { ModelSummary } from '../jobs/worker-registry.ts';
import type { Device } from './device.ts';
import { HandBack } from './hand-back.ts';

export interface Lease {
  readonly device: Device;
  release(): void;
}

interface Waiter {
  model: string;
  slots: number;
  resolve: (lease: Lease) => void;
  reject: (error: Error) => void;
}

export class DevicePool {
  readonly devices: readonly Device[];
  readonly #jobsPerDevice: number;
  readonly #free = new Map<Device, number>();
  readonly #waiters: Waiter[] = [];

  constructor(devices: readonly Device[], jobsPerDevice: number) {
    this.devices = devices;
    this.#jobsPerDevice = jobsPerDevice;
    for (const device of devices) {
      this.#free.set(device, jobsPerDevice);
      device.on('status', () => this.#assign());
    }
  }

  /**
   * Jobs that there can be now, those on a device that ends them and takes no more included, so that they take no place of
   * another device's; 0 when no device takes any.
   */
  get slots(): number {
    const accepting = this.#accepting();
    if (accepting.length === 0) return 0;
    const ending = this.devices.filter((device) => !accepting.includes(device));
    return ending.reduce((sum, { jobs }) => sum + jobs, accepting.length * this.#jobsPerDevice);
  }

  /** All devices read the same MODELS_DIR: those of the first that has read it, but `unopened`. */
  get models(): ModelSummary[] {
    const unopened = this.unopened;
    const [reader] = this.#readers();
    return reader?.models.filter(({ name }) => !unopened.includes(name)) ?? [];
  }

  /** Names of the bundles that are there, and that none of the devices could open. */
  get unopened(): string[] {
    const readers = this.#readers();
    const names = readers[0]?.models.map(({ name }) => name) ?? [];
    return names.filter((name) => readers.every(({ unopened }) => unopened.has(name)));
  }

  #readers(): Device[] {
    return this.devices.filter(({ models }) => models.length > 0);
  }

  /**
   * Waits, first come first served, for a slot.
   * @param model of the job: devices that could not open it come last
   * @param alone true: the job gets a device for itself. Jobs that lost their device run so (runs-alone.ts), because one
   *   of those that ran together may have been the reason: it shall not take the others with it again.
   * @throws HandBack when no device takes jobs
   * @throws the signal's reason
   */
  acquire(model: string, alone: boolean, signal: AbortSignal): Promise<Lease> {
    if (signal.aborted) return Promise.reject(signal.reason);
    return new Promise<Lease>((resolve, reject) => {
      const onAbort = () => {
        const index = this.#waiters.indexOf(waiter);
        if (index >= 0) this.#waiters.splice(index, 1);
        reject(signal.reason);
        this.#assign();
      };
      const waiter: Waiter = {
        model,
        slots: alone ? this.#jobsPerDevice : 1,
        resolve: (lease) => {
          signal.removeEventListener('abort', onAbort);
          resolve(lease);
        },
        reject,
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiters.push(waiter);
      this.#assign();
    });
  }

  #accepting(): Device[] {
    return this.devices.filter((device) => device.accepting);
  }

  #assign(): void {
    if (this.#accepting().length === 0) {
      // Another worker may have a device that does.
      for (const waiter of this.#waiters.splice(0)) waiter.reject(new HandBack());
      return;
    }
    for (let next = this.#waiters[0]; next; next = this.#waiters[0]) {
      const device = this.#leastBusy(next);
      if (!device) return;
      this.#waiters.shift();
      next.resolve(this.#lease(device, next.slots));
    }
  }

  /** Of the devices that may have the model: where all have failed to open it, any of them tries again. */
  #leastBusy({ model, slots }: Waiter): Device | undefined {
    const accepting = this.#accepting();
    const able = accepting.filter(({ unopened }) => !unopened.has(model));
    return (able.length > 0 ? able : accepting)
      .filter((device) => this.#freeOf(device) >= slots)
      .sort((a, b) => this.#freeOf(b) - this.#freeOf(a))[0];
  }

  #lease(device: Device, slots: number): Lease {
    this.#free.set(device, this.#freeOf(device) - slots);
    let released = false;
    return {
      device,
      release: () => {
        if (released) return;
        released = true;
        this.#free.set(device, this.#freeOf(device) + slots);
        this.#assign();
      },
    };
  }

  #freeOf(device: Device): number {
    return this.#free.get(device) ?? 0;
  }
}
