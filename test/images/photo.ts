/** A photo through a service, against what the command line makes of it outside of any container. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import sharp from 'sharp';
import { expect, vi } from 'vitest';
import { root, run } from './tools.ts';

const photo = path.join(root, 'test/photos/cat-128.jpg');
const dials = { pix: '1', sem: '1.2' };

/** HTTP status; 0 where nothing answers. */
export const statusOf = (url: string): Promise<number> =>
  fetch(url).then(
    ({ status }) => status,
    () => 0,
  );

/** @throws when it does not hold within minutes */
export const until = (holds: () => Promise<boolean>): Promise<boolean> =>
  vi.waitUntil(holds, { timeout: 240_000, interval: 250 });

export const untilReady = (service: string): Promise<boolean> =>
  until(async () => (await statusOf(`${service}/readyz`)) === 200);

let fromCommandLine: Promise<Buffer> | undefined;

/** RGB of the photo by `pisa-serve upscale`. */
async function upscaleByCommandLine(): Promise<Buffer> {
  const folder = mkdtempSync(path.join(process.env.TMPDIR ?? '/tmp', 'pisa-photo-'));
  const output = path.join(folder, 'photo.png');
  const { code, stderr } = await run(
    ...(['node', 'dist/cli.js', 'upscale', photo, output] as const),
    ...Object.entries(dials).flatMap(([dial, value]) => [`--${dial}`, value]),
  );
  expect(code, stderr).toBe(0);
  const pixels = await sharp(output).raw().toBuffer();
  rmSync(folder, { recursive: true });
  return pixels;
}

/** Largest difference of a pixel's channel, 0 to 255, between the service's image and the command line's. */
export async function differenceFromCommandLine(service: string): Promise<number> {
  fromCommandLine ??= upscaleByCommandLine();
  const expected = await fromCommandLine;
  const body = new FormData();
  body.set('image', new Blob([readFileSync(photo)], { type: 'image/jpeg' }), 'cat.jpg');
  const answer = await fetch(`${service}/upscale?${new URLSearchParams(dials)}`, {
    method: 'POST',
    body,
    headers: { accept: 'image/png' },
  });
  expect(answer.status).toBe(200);
  const { data, info } = await sharp(Buffer.from(await answer.arrayBuffer()))
    .raw()
    .toBuffer({ resolveWithObject: true });
  expect([info.width, info.height]).toEqual([512, 512]);
  expect(data.length).toBe(expected.length);
  return data.reduce((most, value, i) => Math.max(most, Math.abs(value - (expected[i] ?? 0))), 0);
}
