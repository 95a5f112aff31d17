/** The devices of a worker and who may use which: a job gets a slot on the least busy one. */
import type { Device } from './device.ts';
import { HandBack } from './device.ts';

export interface Lease {
  readonly device: Device;
  release(): void;
}

interface Waiter {
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

  /** Jobs that can run now; 0 when no device is up. */
  get slots(): number {
    return this.#up().length * this.#jobsPerDevice;
  }

  /**
   * Waits, first come first served, for a slot.
   * @param alone true: the job gets a device for itself. Jobs that lost their device run so, because one of
   *   those that ran together may have been the reason: it shall not take the others with it again.
   * @throws HandBack when no device is up
   * @throws the signal's reason
   */
  acquire(alone: boolean, signal: AbortSignal): Promise<Lease> {
    if (signal.aborted) return Promise.reject(signal.reason);
    return new Promise<Lease>((resolve, reject) => {
      const onAbort = () => {
        const index = this.#waiters.indexOf(waiter);
        if (index >= 0) this.#waiters.splice(index, 1);
        reject(signal.reason);
        this.#assign();
      };
      const waiter: Waiter = {
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

  #up(): Device[] {
    return this.devices.filter((device) => device.status === 'ready');
  }

  #assign(): void {
    if (this.#up().length === 0) {
      // Another worker may have a device that is up.
      for (const waiter of this.#waiters.splice(0)) waiter.reject(new HandBack());
      return;
    }
    for (let next = this.#waiters[0]; next; next = this.#waiters[0]) {
      const device = this.#leastBusy(next.slots);
      if (!device) return;
      this.#waiters.shift();
      next.resolve(this.#lease(device, next.slots));
    }
  }

  #leastBusy(slots: number): Device | undefined {
    return this.devices
      .filter((device) => device.accepting && this.#freeOf(device) >= slots)
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
