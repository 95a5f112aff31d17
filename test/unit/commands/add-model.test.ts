/** What `models add` finds in its place when another process has let it wait. All else: test/e2e/models-add.test.ts. */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { addModel } from '../../../src/commands/add-model/add-model.ts';

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

/** Adds the bundle while another process, our parent, holds the lock, which puts a bundle there before it lets go. */
async function addAfter(change: (made: string) => void): Promise<string[]> {
  const lock = path.join(modelsDir, '.identity.lock');
  mkdirSync(lock);
  writeFileSync(path.join(lock, 'owner'), JSON.stringify({ host: hostname(), pid: process.ppid }));
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
