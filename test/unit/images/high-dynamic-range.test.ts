/** Code points of colour: HDR is refused, other code points are not. */
import { describe, expect, it } from 'vitest';
import { avifTransfer } from '../../../src/images/avif-transfer.ts';
import { inspectImage } from '../../../src/images/inspect-image.ts';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { samples, withPngChunk } from './samples.ts';

const limits = { maxPixels: 10_000 };
const pq = 16;
const hlg = 18;
const sRgb = 13;
const bt2020 = 9;

const tagged = async (format: 'png' | 'avif') =>
  sharp(await samples.png())
    .withIccProfile('p3')
    [format]()
    .toBuffer();

const withCicp = (png: Buffer, transfer: number) =>
  withPngChunk(png, 'cICP', Uint8Array.of(bt2020, transfer, 0, 1));

function box(type: string, ...content: Buffer[]): Buffer {
  const whole = Buffer.concat([Buffer.alloc(4), Buffer.from(type, 'latin1'), ...content]);
  whole.writeUInt32BE(whole.length);
  return whole;
}

const nclx = (transfer: number) =>
  box('colr', Buffer.from('nclx'), Buffer.of(0, bt2020, 0, transfer, 0, bt2020, 0x80));

interface Link {
  item: number;
  /** The new property is among those of the item. */
  isLinked: boolean;
}

/**
 * Adds a property to an AVIF of libheif, whose metadata come before the pixels.
 * @param long ids and places in the wider of their two forms
 */
function withProperty(avif: Buffer, property: Buffer, link: Link, long = false): Buffer {
  const at = (type: string) => avif.indexOf(type, 0, 'latin1') - 4;
  const sizeOf = (type: string) => avif.readUInt32BE(at(type));
  const list = avif.subarray(at('ipco') + 8, at('ipco') + sizeOf('ipco'));
  let places = 1;
  for (let i = 0; i < list.length; i += list.readUInt32BE(i)) places++;
  const links = avif.subarray(at('ipma') + 16, at('ipma') + sizeOf('ipma'));
  const entries: Buffer[] = [];
  for (let i = 0; i < links.length; i += 3 + (links[i + 2] ?? 0)) {
    const item = links.readUInt16BE(i);
    const of = [...links.subarray(i + 3, i + 3 + (links[i + 2] ?? 0))];
    if (link.isLinked === (item === link.item)) of.push(places);
    const wide = of.flatMap((place) => (long ? [place & 0x80, place & 0x7f] : [place]));
    const id = long ? [0, 0, 0, item] : [0, item];
    entries.push(Buffer.of(...id, of.length, ...wide));
  }
  const head = Buffer.of(long ? 1 : 0, 0, 0, long ? 1 : 0, 0, 0, 0, entries.length);
  const properties = box('iprp', box('ipco', list, property), box('ipma', head, ...entries));
  const grown = properties.length - sizeOf('iprp');
  const changed = Buffer.concat([
    avif.subarray(0, at('iprp')),
    properties,
    avif.subarray(at('iprp') + sizeOf('iprp')),
  ]);
  changed.writeUInt32BE(sizeOf('meta') + grown, at('meta'));
  // Per item: its id, the data reference, where its data begin, and one extent (ISO/IEC 14496-12, 8.11.3).
  const items = avif.readUInt16BE(at('iloc') + 14);
  for (let i = 0; i < items; i++) {
    const offsetAt = at('iloc') + 16 + 18 * i + 4;
    changed.writeUInt32BE(changed.readUInt32BE(offsetAt) + grown, offsetAt);
  }
  return changed;
}

const shown: Link = { item: 1, isLinked: true };

async function expectHdr(file: Buffer, name: string): Promise<void> {
  await expect(inspectImage(file, limits)).rejects.toMatchObject({
    code: 'unsupported_media_type',
    message: expect.stringMatching(
      `^The image is HDR .*coded as ${name}.* Convert the image to sRGB`,
    ),
  });
}

describe.each([
  ['PQ', pq],
  ['HLG', hlg],
] as const)('%s', (name, transfer) => {
  it('is refused in a PNG', async () => {
    await expectHdr(withCicp(await samples.png(), transfer), name);
    await expectHdr(withCicp(await samples['16-bit PNG'](), transfer), name);
  });

  it.each([false, true])('is refused in an AVIF, with long ids: %s', async (long) => {
    await expectHdr(withProperty(await samples.avif(), nclx(transfer), shown, long), name);
  });

  it('is no fault beside a profile', async () => {
    const png = withCicp(await tagged('png'), transfer);
    expect(await inspectImage(png, limits)).toMatchObject({ format: 'png' });
    const avif = withProperty(await tagged('avif'), nclx(transfer), shown);
    expect(await inspectImage(avif, limits)).toMatchObject({ format: 'avif' });
  });
});

it('other code points are taken', async () => {
  const png = withCicp(await samples.png(), sRgb);
  expect(await inspectImage(png, limits)).toMatchObject({ format: 'png' });
  const avif = withProperty(await samples.avif(), nclx(sRgb), shown);
  expect(avifTransfer(avif)).toBe(sRgb);
  expect(await inspectImage(avif, limits)).toMatchObject({ format: 'avif' });
});

it('the code points of another item of an AVIF are not those of the image', async () => {
  const translucent = await sharp(await samples['RGBA PNG']())
    .avif()
    .toBuffer();
  const avif = withProperty(translucent, nclx(pq), { item: 1, isLinked: false });
  expect(avif.includes('nclx')).toBe(true);
  expect(avifTransfer(avif)).toBeUndefined();
  expect(await inspectImage(avif, limits)).toMatchObject({ format: 'avif' });
});

it('an AVIF that is cut off says nothing of its light, and a damaged one does no harm', async () => {
  const avif = withProperty(await samples.avif(), nclx(pq), shown);
  const metaEnd = avif.indexOf('mdat', 0, 'latin1') - 4;
  for (let length = 0; length < metaEnd; length++) {
    expect(avifTransfer(avif.subarray(0, length))).toBeUndefined();
  }
  for (let at = 0; at < metaEnd; at++) {
    const damaged = Buffer.from(avif);
    damaged[at] = 0xff;
    expect(() => avifTransfer(damaged)).not.toThrow();
  }
});
