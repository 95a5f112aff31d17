import { describe, expect, it } from 'vitest';
import { ModelCache } from '../../../src/worker/device-process/model-cache.ts';

const sizes: Record<string, number> = { a: 60, b: 60, c: 30, d: 10 };

/** A cache whose models are their names, and a log of what happened to them. */
function cacheOf(budget: number, load: (name: string) => Promise<number> = async () => 0) {
  const log: string[] = [];
  const loaded = new Set<string>();
  const cache = new ModelCache<string>(budget, {
    expect: (name) => sizes[name] ?? 0,
    load: async (name) => {
      const bytes = Math.max(sizes[name] ?? 0, await load(name));
      loaded.add(name);
      log.push(`+${name}`);
      return { model: name, bytes };
    },
    unload: async (name, model) => {
      expect(model).toBe(name);
      loaded.delete(name);
      log.push(`-${name}`);
    },
  });
  const use = (name: string, signal?: AbortSignal) => cache.use(name, signal, (model) => model);
  return { cache, log, loaded, use };
}

/** Uses a model until it is told to stop. */
function hold(cache: ModelCache<string>, name: string) {
  let end: () => void = () => undefined;
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  let began: () => void = () => undefined;
  const started = new Promise<void>((resolve) => {
    began = resolve;
  });
  const done = cache.use(name, undefined, async () => {
    began();
    await ended;
  });
  return { started, end, done };
}

const settle = () => new Promise((resolve) => setImmediate(resolve));

describe('ModelCache', () => {
  it('loads a model once, however many ask for it at the same time', async () => {
    const { log, use } = cacheOf(100);
    expect(await Promise.all([use('a'), use('a'), use('a')])).toEqual(['a', 'a', 'a']);
    expect(log).toEqual(['+a']);
  });

  it('keeps what fits, and unloads the least recently used to make room', async () => {
    const { log, use } = cacheOf(100);
    for (const name of ['a', 'c', 'd', 'a', 'c']) await use(name);
    expect(log).toEqual(['+a', '+c', '+d']);
    await use('b');
    expect(log.slice(3)).toEqual(['-d', '-a', '+b']);
  });

  it('has one of two at a time where only one fits', async () => {
    const { log, loaded, use } = cacheOf(100);
    for (const name of ['a', 'b', 'a', 'b']) {
      expect(await use(name)).toBe(name);
      expect([...loaded]).toEqual([name]);
    }
    expect(log).toEqual(['+a', '-a', '+b', '-b', '+a', '-a', '+b']);
  });

  it('waits for a model in use, unloads none in use, and lets nobody overtake', async () => {
    const { cache, log } = cacheOf(100);
    const [first, second] = [hold(cache, 'a'), hold(cache, 'a')];
    await Promise.all([first.started, second.started]);
    const waiting = cache.use('b', undefined, () => log.push('b used'));
    const later = cache.use('a', undefined, () => log.push('a used'));
    await settle();
    first.end();
    await first.done;
    await settle();
    expect(log).toEqual(['+a']);
    second.end();
    await Promise.all([second.done, waiting, later]);
    expect(log).toEqual(['+a', '-a', '+b', 'b used', '-b', '+a', 'a used']);
  });

  it('keeps a model in use while an idle one makes room', async () => {
    const { cache, log, use } = cacheOf(100);
    const held = hold(cache, 'a');
    await held.started;
    await use('c');
    await use('d');
    await use('c');
    sizes.e = 25;
    await use('e');
    expect(log.slice(3)).toEqual(['-d', '-c', '+e']);
    held.end();
    await held.done;
  });

  it('lets who is aborted go, and loads nothing for him', async () => {
    const { cache, log, use } = cacheOf(100);
    const held = hold(cache, 'a');
    await held.started;
    const abort = new AbortController();
    const waiting = use('b', abort.signal);
    await settle();
    abort.abort(new Error('canceled'));
    await expect(waiting).rejects.toThrow('canceled');
    held.end();
    await held.done;
    await use('a');
    expect(log).toEqual(['+a']);
  });

  it('remembers that a model took more than expected', async () => {
    const { log, use } = cacheOf(100, async (name) => (name === 'd' ? 90 : 0));
    await use('d');
    await use('c');
    expect(log).toEqual(['+d', '-d', '+c']);
    await use('d');
    expect(log.slice(3)).toEqual(['-c', '+d']);
  });

  it('tries again after a load that failed', async () => {
    let fails = true;
    const { log, use } = cacheOf(100, async () => {
      if (fails) throw new Error('no memory');
      return 0;
    });
    await expect(use('a')).rejects.toThrow('no memory');
    fails = false;
    expect(await use('a')).toBe('a');
    expect(log).toEqual(['+a']);
  });

  it('releases a model whose work failed', async () => {
    const { cache, log, use } = cacheOf(100);
    const failing = cache.use('a', undefined, () => Promise.reject(new Error('job')));
    await expect(failing).rejects.toThrow('job');
    await use('b');
    expect(log).toEqual(['+a', '-a', '+b']);
  });
});
