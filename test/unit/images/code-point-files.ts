/** Files that name their colours in code points (ITU-T H.273). */
import type { CodePoints } from '../../../src/images/code-points.ts';
import { withPngChunk } from './samples.ts';

/** RGB of the full range. */
export const withCicp = (png: Buffer, { primaries, transfer }: CodePoints): Buffer =>
  withPngChunk(png, 'cICP', Uint8Array.of(primaries, transfer, 0, 1));

function box(type: string, ...content: Buffer[]): Buffer {
  const whole = Buffer.concat([Buffer.alloc(4), Buffer.from(type, 'latin1'), ...content]);
  whole.writeUInt32BE(whole.length);
  return whole;
}

/** With the matrix of BT.601, as what libheif writes without the box is read. */
const nclx = ({ primaries, transfer }: CodePoints): Buffer =>
  box('colr', Buffer.from('nclx'), Buffer.of(0, primaries, 0, transfer, 0, 6, 0x80));

interface Link {
  item: number;
  /** The new property is among those of the item. */
  isLinked: boolean;
}

/**
 * Adds code points to an AVIF of libheif, whose metadata come before the pixels.
 * @param long ids and places in the wider of their two forms
 */
export function withNclx(avif: Buffer, points: CodePoints, link: Link, long = false): Buffer {
  const property = nclx(points);
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

export const shown: Link = { item: 1, isLinked: true };
