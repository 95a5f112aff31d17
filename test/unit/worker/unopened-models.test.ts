import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pino from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { bundleStamp } from '../../../src/worker/bundle-stamp.ts';
import { UnopenedModels } from '../../../src/worker/unopened-models.ts';

let modelsDir: string;
let bundle: string;
let log: Record<string, unknown>[];
let changes: number;
let unopened: UnopenedModels;

beforeEach(async () => {
  modelsDir = await mkdtemp(path.join(tmpdir(), 'pisa-models-'));
  bundle = path.join(modelsDir, 'tiny');
  await mkdir(bundle);
  await writeFile(path.join(bundle, 'unet.onnx'), 'broken');
  log = [];
  changes = 0;
  const write = (line: string) => log.push(JSON.parse(line) as Record<string, unknown>);
  unopened = new UnopenedModels({
    modelsDir,
    logger: pino({}, { write }),
    onChange: () => {
      changes += 1;
    },
  });
});
afterEach(() => rm(modelsDir, { recursive: true }));

const note = async () =>
  unopened.note({ model: 'tiny', stamp: await bundleStamp(bundle), detail: 'Broken.' });

test('is said once for the same files', async () => {
  await note();
  await note();
  await unopened.lookAgain();
  expect([unopened.has('tiny'), changes]).toEqual([true, 1]);
  expect(log).toMatchObject([{ model: 'tiny', detail: 'Broken.' }]);
});

test.each([
  ['a file is written', () => writeFile(path.join(bundle, 'unet.onnx'), 'mended')],
  ['a file comes', () => writeFile(path.join(bundle, 'decoder.onnx'), '')],
  ['the bundle goes', () => rename(bundle, path.join(modelsDir, 'other'))],
])('holds until %s', async (_, change) => {
  await note();
  await change();
  await Promise.all([unopened.lookAgain(), unopened.lookAgain()]);
  expect([unopened.has('tiny'), changes]).toEqual([false, 2]);
});

test('holds until it opens', async () => {
  unopened.forget('tiny');
  await note();
  unopened.forget('tiny');
  expect([unopened.has('tiny'), changes]).toEqual([false, 2]);
});
