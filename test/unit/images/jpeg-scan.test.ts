/** JPEGs whose scan says what a sequential one cannot, as phones write them. */
import { describe, expect, it } from 'vitest';
import { inspectImage } from '../../../src/images/inspect-image.ts';
import { withScanParameters } from '../../../src/images/jpeg-scan.ts';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { decodeImage } from '../../../src/pipeline/decode-image.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { samples } from './samples.ts';

const limits = { maxPixels: 10_000 };

/** Where the header of the first scan says which coefficients it has. */
function parametersAt(jpeg: Buffer): number {
  const scan = jpeg.indexOf(Buffer.of(0xff, 0xda));
  return scan + 5 + 2 * (jpeg[scan + 4] ?? 0);
}

const withParameters = (jpeg: Buffer, parameters: number[]): Buffer => {
  const changed = Buffer.from(jpeg);
  changed.set(parameters, parametersAt(jpeg));
  return changed;
};

const pixels = async (jpeg: Buffer) => (await decodeImage(jpeg, limits, new RunControl())).rgb.data;

describe('the parameters of a scan', () => {
  it.each([
    ['0 to 0', [0, 0, 0]],
    ['0 to 63, in part', [0, 63, 16]],
    ['1 to 64', [1, 64, 0]],
  ])('are mended in a sequential JPEG: %s', async (_, parameters) => {
    const jpeg = await samples.jpeg();
    const file = withParameters(jpeg, parameters);
    const stored = Buffer.from(file);
    expect(await inspectImage(file, limits)).toMatchObject({ format: 'jpeg' });
    expect(await pixels(file)).toEqual(await pixels(jpeg));
    expect(file).toEqual(stored);
  });

  it('are found behind metadata, and behind bytes that fill', async () => {
    const jpeg = await sharp(await samples.png())
      .withExif({ IFD0: { Make: 'Phone' } })
      .jpeg()
      .toBuffer();
    const filled = Buffer.concat([jpeg.subarray(0, 2), Buffer.alloc(3, 0xff), jpeg.subarray(2)]);
    expect(withScanParameters(withParameters(filled, [0, 0, 0]))).toEqual(filled);
  });

  it.each(['jpeg', 'tagged JPEG', 'progressive JPEG', 'CMYK JPEG'] as const)(
    'cost no copy where nothing is to be mended: %s',
    async (name) => {
      const jpeg = await samples[name]();
      expect(withScanParameters(jpeg)).toBe(jpeg);
    },
  );

  it('are left as they are where the file is cut off', async () => {
    const file = withParameters(await samples.jpeg(), [0, 0, 0]);
    for (let length = 3; length < parametersAt(file) + 3; length++) {
      const cut = file.subarray(0, length);
      expect(withScanParameters(cut)).toBe(cut);
    }
  });
});

it('damaged pixels are refused still, beside a scan that is mended', async () => {
  const jpeg = await samples.jpeg();
  const from = parametersAt(jpeg) + 3;
  const damaged = withParameters(jpeg, [0, 0, 0]);
  for (let at = from + 100; at < from + 115; at++) damaged[at] = (damaged[at] ?? 0) ^ 0x5a;
  await expect(inspectImage(damaged, limits)).rejects.toMatchObject({ code: 'corrupt_image' });
});
