/** How a long-running command ends: in order at the first signal, at once at the second, and in the end by itself. */
import pino from 'pino';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { closeAll, untilSignal } from '../../../src/commands/until-signal.ts';

const silent = pino({ level: 'silent' });
const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const exit = vi.fn();

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(process, 'exit').mockImplementation(exit as never);
  exit.mockReset();
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

/** Only what has been added to them since: the test run has listeners of its own. */
function listening(): { send(signal: NodeJS.Signals): void; stop(): void } {
  const before = new Map(signals.map((name) => [name, process.listeners(name)]));
  const added = (name: NodeJS.Signals) =>
    process
      .rawListeners(name)
      .filter((one) => !before.get(name as 'SIGINT')?.includes(one as never));
  return {
    send: (signal) => {
      for (const listener of added(signal)) listener(signal);
    },
    stop: () => {
      for (const name of signals) {
        for (const listener of added(name)) process.off(name, listener as () => void);
      }
    },
  };
}

test.each(signals)('%s ends it in order; a Ctrl-C or SIGTERM after it, at once', async (first) => {
  const process = listening();
  const ended = untilSignal(silent, 60);
  process.send(first);
  expect(await ended).toBe('signal');
  // A closed terminal's comes twice: of the shell and of the kernel.
  process.send('SIGHUP');
  expect(exit).not.toHaveBeenCalled();
  process.send('SIGINT');
  process.send('SIGTERM');
  expect(exit.mock.calls).toEqual([[1], [1]]);
  process.stop();
});

test('closing that takes longer than its limit and a margin ends by force', async () => {
  const process = listening();
  const ended = untilSignal(silent, 60);
  process.send('SIGTERM');
  await ended;
  vi.advanceTimersByTime(60_000);
  expect(exit).not.toHaveBeenCalled();
  vi.advanceTimersByTime(10_000);
  expect(exit.mock.calls).toEqual([[1]]);
  process.stop();
});

test('one closer that fails does not keep the others from running, in their order', async () => {
  const steps: string[] = [];
  await closeAll(silent, [
    async () => steps.push('first'),
    async () => {
      throw new Error('planned');
    },
    async () => steps.push('last'),
  ]);
  expect(steps).toEqual(['first', 'last']);
});
