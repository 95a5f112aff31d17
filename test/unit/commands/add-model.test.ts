/**
 * What `models add` finds in its place when another process has let it wait or was killed, and what it and `models remove`
 * leave there. All else: test/e2e/models-add.test.ts.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { addModel } from '../../../src/commands/add-model/add-model.ts';
import { removeModel } from '../../../src/commands/remove-model.ts';

const copyFile = vi.hoisted(() => vi.fn());
const onRemove = vi.hoisted(() => vi.fn());
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>();
  const rm: typeof real.rm = (file, options) => {
    onRemove(file);
    return real.rm(file, options);
  };
  copyFile.mockImplementation(real.copyFile);
  return { ...real, copyFile, rm };
});

const bundle = path.resolve(import.meta.dirname, '../../fixtures/bundles/identity');
let folder: string;
let modelsDir: string;
/** A bundle of which nothing but its manifest can be had: who fetches it fails. */
let hollow: string;

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-waits-'));
  modelsDir = path.join(folder, 'models');
  mkdirSync(modelsDir);
  hollow = path.join(folder, 'hollow');
  mkdirSync(hollow);
  cpSync(path.join(bundle, 'manifest.json'), path.join(hollow, 'manifest.json'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const inModels = (name: string): string => path.join(modelsDir, name);
/** By another process, our parent, which is alive. */
function holdLock(): string {
  const lock = inModels('.identity.lock');
  mkdirSync(lock);
  writeFileSync(path.join(lock, 'owner'), JSON.stringify({ host: hostname(), pid: process.ppid }));
  return lock;
}
function place(at: string, version = '1.0.0'): void {
  cpSync(bundle, inModels(at), { recursive: true });
  const file = path.join(inModels(at), 'manifest.json');
  const text = readFileSync(file, 'utf8');
  writeFileSync(file, text.replace('"version": "1.0.0"', `"version": "${version}"`));
}
async function add(from: string, replace = false): Promise<string[]> {
  const said: string[] = [];
  const config = { MODELS_DIR: modelsDir, MODEL: 'identity' };
  await addModel(config, from, { replace }, (line) => said.push(line));
  return said;
}

/** Adds the bundle while another process, our parent, holds the lock, which puts a bundle there before it lets go. */
async function addAfter(change: (made: string) => void): Promise<string[]> {
  const lock = holdLock();
  const said: string[] = [];
  await addModel({ MODELS_DIR: modelsDir, MODEL: 'identity' }, hollow, {}, (line) => {
    said.push(line);
    if (!line.includes('waiting for it')) return;
    const made = path.join(modelsDir, '.made');
    cpSync(bundle, made, { recursive: true });
    change(made);
    renameSync(made, path.join(modelsDir, 'identity'));
    rmSync(lock, { recursive: true });
  });
  return said;
}

test('the bundle is found, and not fetched again', async () => {
  expect(await addAfter(() => {})).toEqual([
    'Another process is adding identity; waiting for it.',
    expect.stringMatching(/^identity 1\.0\.0 was already in /),
  ]);
});

test('a damaged one is not taken for it', async () => {
  const harm = (made: string) => rmSync(path.join(made, 'unet.onnx'));
  await expect(addAfter(harm)).rejects.toMatchObject({
    code: 'invalid_bundle',
    message: expect.stringMatching(/hollow: .*\.onnx is missing/),
  });
});

test('another one is not replaced unasked', async () => {
  const file = (made: string) => path.join(made, 'manifest.json');
  const renew = (made: string) => {
    const text = readFileSync(file(made), 'utf8');
    writeFileSync(file(made), text.replace('"version": "1.0.0"', '"version": "2.0.0"'));
  };
  await expect(addAfter(renew)).rejects.toMatchObject({
    code: 'invalid_parameter',
    message: expect.stringMatching(/identity holds identity 2\.0\.0, .* Give --replace/),
  });
});

describe('after a process was killed', () => {
  const replaced = '.identity.partial/replaced';

  test('between the old bundle and the new one, the old one is back before anything is fetched', async () => {
    place(replaced, '2.0.0');
    await expect(add(hollow)).rejects.toMatchObject({
      message: expect.stringMatching(/holds identity 2\.0\.0, .* Give --replace/),
    });
    // Not even what is asked to replace it costs it, before it is there itself.
    await expect(add(hollow, true)).rejects.toMatchObject({
      message: expect.stringMatching(/hollow: .*\.onnx is missing/),
    });
    const text = readFileSync(inModels('identity/manifest.json'), 'utf8');
    expect(text).toContain('"version": "2.0.0"');
  });

  test('there and with the bundle that is wanted, that is back and enough', async () => {
    place(replaced);
    expect(await add(hollow)).toEqual([
      expect.stringMatching(/^A run that was killed had taken .*identity away: it is back/),
      expect.stringMatching(/^identity 1\.0\.0 was already in /),
    ]);
    expect(readdirSync(modelsDir)).toEqual(['identity']);
  });

  test.each(['with', 'without'])('what it was deleting goes, %s --sha256', async (how) => {
    const [line = ''] = await add(bundle).then((said) => said.slice(-1));
    place(replaced, '2.0.0');
    place('.identity.removed-1');
    place('.other.removed-1');
    const sha256 = /[0-9a-f]{64}/.exec(line)?.[0] ?? '';
    const flags = how === 'with' ? { sha256 } : {};
    await addModel({ MODELS_DIR: modelsDir, MODEL: '' }, hollow, flags, () => {});
    expect(readdirSync(modelsDir)).toEqual(['.other.removed-1', 'identity']);
  });

  test('what another process is at work on stays, and is not waited for', async () => {
    await add(bundle);
    place(replaced, '2.0.0');
    holdLock();
    expect(await add(hollow)).toEqual([expect.stringMatching(/was already in/)]);
    expect(existsSync(inModels(replaced))).toBe(true);
  });

  test('`models remove` takes it along, also where the bundle is gone already', async () => {
    await add(bundle);
    place(replaced, '2.0.0');
    place('.identity.removed-1');
    const config = { MODELS_DIR: modelsDir, MODEL: 'another' };
    await removeModel(config, 'identity');
    expect(readdirSync(modelsDir)).toEqual([]);
    place('.identity.removed-2');
    await expect(removeModel(config, 'identity')).rejects.toMatchObject({
      message: expect.stringMatching(/has no bundle "identity"/),
    });
    expect(readdirSync(modelsDir)).toEqual([]);
  });
});

test('after a full disk what was begun is deleted while no other process can have begun anew', async () => {
  const full = Object.assign(new Error('full'), { code: 'ENOSPC', syscall: 'copyfile' });
  copyFile.mockRejectedValueOnce(full);
  const partial = inModels('.identity.partial');
  const locked: boolean[] = [];
  onRemove.mockImplementation((file) => {
    if (file === partial) locked.push(existsSync(inModels('.identity.lock')));
  });
  await expect(add(bundle)).rejects.toMatchObject({ code: 'bundle_not_added' });
  expect(locked).toEqual([true]);
  expect(readdirSync(modelsDir)).toEqual([]);
});
