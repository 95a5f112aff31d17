/**
 * The service's pipeline on one photo, with one model, timed: one JSON line for each run. `make full-size`
 * (python/pisa_models/full_size) compares it with PyTorch. Loading is not part of the times.
 *
 *   node .bench/bench/full-size.js BUNDLE INPUT OUTPUT.png PIX SEM REPEAT THREADS
 */
import { readFile, writeFile } from 'node:fs/promises';
import { resolveParams } from '../src/jobs/params.ts';
import { loadModel } from '../src/pipeline/model.ts';
import { upscale } from '../src/pipeline/upscale.ts';

const maxPixels = 1e9;

const [bundle = '', input = '', output = '', ...numbers] = process.argv.slice(2);
const [pix = 1, sem = 1, repeat = 1, threads] = numbers.map(Number);
const model = await loadModel(bundle, { executionProvider: 'cpu', threads });
const params = {
  ...resolveParams({ pix, sem, colorfix: 'adain' }, model.manifest.name),
  format: 'png' as const,
};
for (let run = 0; run < repeat; run++) {
  const startedAt = performance.now();
  const cpuBefore = process.cpuUsage();
  const limits = {
    maxInputPixels: maxPixels,
    maxOutputPixels: maxPixels,
    maxRestoredPixels: maxPixels,
  };
  const { image, timingsMs } = await upscale(await readFile(input), params, { model, limits });
  await writeFile(output, image);
  const seconds = (performance.now() - startedAt) / 1000;
  const { user, system } = process.cpuUsage(cpuBefore);
  const cpuSeconds = (user + system) / 1e6;
  console.log(JSON.stringify({ seconds, cpuSeconds, stages: timingsMs }));
}
await model.dispose();
