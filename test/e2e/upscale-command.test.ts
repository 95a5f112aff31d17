/** `pisa-serve upscale` as it is typed (Ctrl-C: upscale-stopped.test.ts): every flag reaches the result. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cli, photo, root } from './service.ts';

const run = promisify(execFile);
const env = {
  ...process.env,
  MODELS_DIR: path.join(root, 'test/fixtures/bundles'),
  MODEL: 'blur',
  DEVICE_THREADS: '1',
};
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-command-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** @returns what it has made */
async function upscaled(lowRes: string, name: string, ...flags: string[]): Promise<Buffer> {
  const superRes = path.join(folder, name);
  await run(process.execPath, [cli, 'upscale', lowRes, superRes, ...flags], { env });
  return readFileSync(superRes);
}

test('--quality is that of a lossy output', async () => {
  const cat = photo('cat-128.jpg');
  const [coarse, fine] = [
    await upscaled(cat, 'q10.jpg', '--quality', '10'),
    await upscaled(cat, 'q95.jpg', '--quality', '95'),
  ];
  expect(fine.byteLength).toBeGreaterThan(3 * coarse.byteLength);
});

test('--colorfix holds the colours to those of the photo, or does not', async () => {
  const cat = photo('cat-128.jpg');
  const deviations = async (image: Buffer | string) =>
    (await sharp(image).stats()).channels.map(({ stdev }) => stdev);
  const before = await deviations(cat);
  // A blur takes contrast away; adain gives it back.
  const far = async (...flags: string[]): Promise<number> => {
    const after = await deviations(await upscaled(cat, `${flags.join('')}.png`, ...flags));
    return Math.max(...after.map((value, channel) => Math.abs(value - (before[channel] ?? 0))));
  };
  expect(await far('--colorfix', 'adain')).toBeLessThan(0.5 * (await far('--colorfix', 'none')));
});

test('--metadata keep takes EXIF along, and without it nothing goes', async () => {
  const tagged = path.join(folder, 'tagged.jpg');
  const exif = { IFD0: { Artist: 'A. Photographer' } };
  await sharp(photo('cat-128.jpg')).withExif(exif).jpeg().toFile(tagged);
  expect((await upscaled(tagged, 'kept.jpg', '--metadata', 'keep')).toString('latin1')).toContain(
    exif.IFD0.Artist,
  );
  expect((await upscaled(tagged, 'bare.jpg')).toString('latin1')).not.toContain(exif.IFD0.Artist);
});

test('--device is one device, whatever DEVICES says', async () => {
  const cat = photo('cat-128.jpg');
  await expect(upscaled(cat, 'x.png', '--device', 'cpu,cpu')).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/Expected cpu, webgpu or cuda:N for --device .*"?cpu,cpu/),
  });
  const args = [cli, 'upscale', cat, path.join(folder, 'on-cpu.png'), '--device', 'cpu'];
  await run(process.execPath, args, { env: { ...env, DEVICES: 'cuda:0' } });
  expect(readdirSync(folder)).toContain('on-cpu.png');
});

test('--skip-existing keeps what is there, and is no --force', async () => {
  const cat = photo('cat-128.jpg');
  const first = await upscaled(cat, 'once.png', '--scale', '1');
  expect(await upscaled(cat, 'once.png', '--scale', '2', '--skip-existing')).toEqual(first);
  await expect(upscaled(cat, 'once.png', '--skip-existing', '--force')).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/'--skip-existing' cannot be used with option '--force'/),
  });
});
