import { describe, expect, it } from 'vitest';
import { Turns } from '../../../src/pipeline/turns.ts';

const large = { width: 2048, height: 2048 };
const small = { width: 2047, height: 2048 };

/** Work that ends when it is told to, and writes down when it began and ended. */
function work(log: string[], name: string) {
  let end: () => void = () => undefined;
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  const run = async () => {
    log.push(`+${name}`);
    await ended;
    log.push(`-${name}`);
    return name;
  };
  return { run, end };
}

/** Lets everything happen that can happen now. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

describe('Turns', () => {
  it('lets one large image work at a time, in order, and small ones at once', async () => {
    const turns = new Turns();
    const log: string[] = [];
    const [a, b, c] = [work(log, 'a'), work(log, 'b'), work(log, 'c')];
    const first = turns.take(large, undefined, a.run);
    const second = turns.take(large, undefined, b.run);
    const third = turns.take(small, undefined, c.run);
    await settle();
    expect([...log].sort()).toEqual(['+a', '+c']);
    a.end();
    expect(await first).toBe('a');
    await settle();
    expect(log.slice(2)).toEqual(['-a', '+b']);
    b.end();
    c.end();
    expect(await Promise.all([second, third])).toEqual(['b', 'c']);
  });

  it('goes on after work that fails', async () => {
    const turns = new Turns();
    const failing = turns.take(large, undefined, () => Promise.reject(new Error('no')));
    await expect(failing).rejects.toThrow('no');
    expect(await turns.take(large, undefined, async () => 1)).toBe(1);
  });

  it('who is aborted in the queue leaves it, and nobody passes the one at work', async () => {
    const turns = new Turns();
    const log: string[] = [];
    const [a, b] = [work(log, 'a'), work(log, 'b')];
    const abort = new AbortController();
    const first = turns.take(large, undefined, a.run);
    const canceled = turns.take(large, abort.signal, async () => log.push('never'));
    const last = turns.take(large, undefined, b.run);
    await settle();
    abort.abort(new Error('canceled'));
    await expect(canceled).rejects.toThrow('canceled');
    await settle();
    expect(log).toEqual(['+a']);
    a.end();
    b.end();
    await Promise.all([first, last]);
    expect(log).toEqual(['+a', '-a', '+b', '-b']);
  });
});
