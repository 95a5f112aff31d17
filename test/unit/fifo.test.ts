import { describe, expect, it } from 'vitest';
import { Fifo } from '../../src/fifo.ts';

/** Lets everything happen that can happen now. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

/** Takes turns of which each ends when it is told to. */
function turnsOf(fifo: Fifo) {
  const begun: string[] = [];
  const ends = new Map<string, () => void>();
  const take = (name: string, signal?: AbortSignal) =>
    fifo.take(signal, async () => {
      begun.push(name);
      await new Promise<void>((resolve) => ends.set(name, resolve));
      return name;
    });
  return { begun, take, end: (name: string) => ends.get(name)?.() };
}

describe('Fifo', () => {
  it('lets as many work at once as it is told, in the order in which they came', async () => {
    const { begun, take, end } = turnsOf(new Fifo(2));
    const all = Promise.all(['a', 'b', 'c', 'd', 'e'].map((name) => take(name)));
    await settle();
    expect(begun).toEqual(['a', 'b']);
    end('b');
    await settle();
    expect(begun).toEqual(['a', 'b', 'c']);
    end('a');
    end('c');
    await settle();
    expect(begun).toEqual(['a', 'b', 'c', 'd', 'e']);
    end('d');
    end('e');
    expect(await all).toEqual(['a', 'b', 'c', 'd', 'e']);
  });

  it('has the places back of work that fails', async () => {
    const fifo = new Fifo(1);
    const failing = [1, 2].map(() => fifo.take(undefined, () => Promise.reject(new Error('no'))));
    for (const one of failing) await expect(one).rejects.toThrow('no');
    expect(await fifo.take(undefined, async () => 1)).toBe(1);
  });

  it('does not begin for who has given up', async () => {
    const { begun, take, end } = turnsOf(new Fifo(1));
    const reason = new Error('enough');
    const abort = new AbortController();
    await expect(take('never', AbortSignal.abort(reason))).rejects.toBe(reason);
    const first = take('first');
    const gone = take('gone', abort.signal);
    const last = take('last');
    abort.abort(reason);
    await expect(gone).rejects.toBe(reason);
    end('first');
    await first;
    await settle();
    end('last');
    await last;
    expect(begun).toEqual(['first', 'last']);
  });

  it('passes a place on that comes in the moment of giving up', async () => {
    const fifo = new Fifo(1);
    const abort = new AbortController();
    let end: () => void = () => undefined;
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const first = fifo.take(undefined, () => ended);
    const gone = fifo.take(abort.signal, async () => 'gone');
    const last = fifo.take(undefined, async () => 'last');
    // Heard right after the first one's own wait for it, which passes the place on.
    void ended.then(() => abort.abort(new Error('enough')));
    end();
    await expect(gone).rejects.toThrow('enough');
    await first;
    expect(await last).toBe('last');
  });
});
