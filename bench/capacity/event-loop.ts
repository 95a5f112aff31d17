/** Discrete-event simulation: a clock that jumps from one event to the next. Events of one moment run in the order they were entered. */
import TinyQueue from 'tinyqueue';

interface Event {
  at: number;
  order: number;
  run: () => void;
}

export class EventLoop {
  readonly #events = new TinyQueue<Event>([], (a, b) => a.at - b.at || a.order - b.order);
  #order = 0;
  #now = 0;

  /** Simulated milliseconds since the start. */
  get now(): number {
    return this.#now;
  }

  /** @param at not before now */
  at(at: number, run: () => void): void {
    if (!(at >= this.#now))
      throw new RangeError(`An event at ${at} cannot be entered at ${this.#now}.`);
    this.#order += 1;
    this.#events.push({ at, order: this.#order, run });
  }

  /** Runs `action` every `everyMs`, first after `everyMs`, as long as it returns true. */
  every(everyMs: number, action: () => boolean): void {
    this.at(this.#now + everyMs, () => {
      if (action()) this.every(everyMs, action);
    });
  }

  /** Until there is no event left. */
  run(): void {
    for (let event = this.#events.pop(); event; event = this.#events.pop()) {
      this.#now = event.at;
      event.run();
    }
  }
}
