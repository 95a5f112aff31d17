import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { unlessAborted, within } from '../../src/waits.ts';

const reason = new Error('enough');
const late = new Error('too late to matter');

describe('unlessAborted', () => {
  it('settles with the work, and leaves nothing at the signal', async () => {
    const { signal } = new AbortController();
    const remove = vi.spyOn(signal, 'removeEventListener');
    expect(await unlessAborted(Promise.resolve(1), signal)).toBe(1);
    await expect(unlessAborted(Promise.reject(reason), signal)).rejects.toBe(reason);
    expect(await unlessAborted(Promise.resolve(2), undefined)).toBe(2);
    await nextTurn();
    expect(remove).toHaveBeenCalledTimes(2);
  });

  it.each(['before', 'while'] as const)(
    'aborted %s it waits: the work may fail unheard',
    async (when) => {
      const unheard = vi.fn();
      process.on('unhandledRejection', unheard);
      onTestFinished(() => {
        process.off('unhandledRejection', unheard);
      });
      let fail: (error: Error) => void = () => undefined;
      const work = new Promise<never>((_, reject) => {
        fail = reject;
      });
      const abort = new AbortController();
      if (when === 'before') abort.abort(reason);
      const waiting = unlessAborted(work, abort.signal);
      if (when === 'while') abort.abort(reason);
      await expect(waiting).rejects.toBe(reason);
      fail(late);
      await nextTurn();
      expect(unheard).not.toHaveBeenCalled();
    },
  );
});

describe('within', () => {
  it('tells whether the work ended in time, and throws what it throws', async () => {
    expect(await within(Promise.resolve(), 60_000)).toBe(true);
    expect(await within(new Promise(() => {}), 1)).toBe(false);
    await expect(within(Promise.reject(reason), 60_000)).rejects.toBe(reason);
  });
});
