/** `metadata=keep`: the owner's words stay, the recipe finds its place, and nothing speaks of what the output has not. */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { type OutputFormat, outputFormats } from '../../../src/jobs/params.ts';
import { software } from '../../../src/package-info.ts';
import { decodeImage } from '../../../src/pipeline/decode-image.ts';
import { exifTags, exifText, outputExif, withoutMakerNote } from '../../../src/pipeline/exif.ts';
import type { Model } from '../../../src/pipeline/model.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { outputXmp } from '../../../src/pipeline/xmp.ts';
import { withCicp } from '../images/code-point-files.ts';
import { pngChunk, withPngChunk } from '../images/samples.ts';
import { bundlePath, difference, fixturePath } from './fixtures.ts';
import { loadExactIdentity, loadOnCpu, picture, pixelsOf, run } from './run.ts';

let identity: Model;
beforeAll(async () => {
  identity = await loadOnCpu(bundlePath('identity'));
});
afterAll(() => identity.dispose());

const thumbnail = Buffer.from('\xff\xd8\xff\xd9 the thumbnail as it lay', 'latin1');

/** IFD0 with orientation 6 and texts, and an IFD1 with a thumbnail (TIFF 6.0; EXIF 2.3, 4.5.8). */
function exifBlock(
  texts: readonly (readonly [tag: number, text: string])[],
  little = true,
): Buffer {
  const write16 = (block: Buffer, value: number, at: number) =>
    little ? block.writeUInt16LE(value, at) : block.writeUInt16BE(value, at);
  const write32 = (block: Buffer, value: number, at: number) =>
    little ? block.writeUInt32LE(value, at) : block.writeUInt32BE(value, at);
  const head = Buffer.alloc(8 + 2 + 12 * (texts.length + 1) + 4);
  const ifd1 = Buffer.alloc(2 + 12 * 3 + 4);
  const data = texts.map(([, text]) => Buffer.from(`${text}\0`.padEnd(6, '\0')));
  head.write(little ? 'II' : 'MM', 'latin1');
  write16(head, 42, 2);
  write32(head, 8, 4);
  write16(head, texts.length + 1, 8);
  const entry = (block: Buffer, at: number, [tag, type, count, value]: number[]) => {
    write16(block, tag as number, at);
    write16(block, type as number, at + 2);
    write32(block, count as number, at + 4);
    if (type === 3) write16(block, value as number, at + 8);
    else write32(block, value as number, at + 8);
  };
  let offset = head.length;
  const entries = [[exifTags.orientation, 3, 1, 6]];
  for (const [i, [tag]] of texts.entries()) {
    const { length } = data[i] as Buffer;
    entries.push([tag, 2, length, offset]);
    offset += length;
  }
  entries.sort(([a = 0], [b = 0]) => a - b);
  for (const [i, one] of entries.entries()) entry(head, 10 + 12 * i, one);
  write32(head, offset, head.length - 4);
  write16(ifd1, 3, 0);
  entry(ifd1, 2, [0x0103, 3, 1, 6]);
  entry(ifd1, 14, [0x0201, 4, 1, offset + ifd1.length]);
  entry(ifd1, 26, [0x0202, 4, 1, thumbnail.length]);
  return Buffer.concat([head, ...data, ifd1, thumbnail]);
}

const caption = 'Aunt Ida, 1931 <"front & back">';
const xmpChunk = (packet: string) =>
  Buffer.concat([Buffer.from('XML:com.adobe.xmp\0\0\0\0\0', 'latin1'), Buffer.from(packet)]);

/** What an output says, by the texts of its two blocks. */
async function kept(exif: Buffer | undefined, xmp: string | undefined, format: OutputFormat) {
  let lowRes = await picture(16, 12);
  if (xmp !== undefined) lowRes = withPngChunk(lowRes, 'iTXt', xmpChunk(xmp));
  if (exif) lowRes = withPngChunk(lowRes, 'eXIf', exif);
  const params = { pix: 0, sem: 0, scale: 2, format, metadata: 'keep' } as const;
  const { image } = await run(lowRes, identity, params);
  const metadata = await sharp(image).metadata();
  const block = metadata.exif ?? Buffer.alloc(0);
  return {
    image,
    block,
    caption: exifText(block, exifTags.imageDescription),
    software: exifText(block, exifTags.software),
    xmp: metadata.xmp?.toString() ?? '',
  };
}

const recipe = /^\{"pix":0,"sem":0,"scale":2.*"model":"identity".*\}$/;
const unescaped = (text: string) => text.replaceAll('&quot;', '"').replaceAll('&amp;', '&');
const ownRecipe = (xmp: string) => unescaped(/pisa:Recipe="([^"]*)"/.exec(xmp)?.[1] ?? '');

describe('a temporary folder that cannot take the profile', () => {
  it('is disk_full, which names it and what does without', async () => {
    vi.stubEnv('TMPDIR', '/nowhere/tmp');
    onTestFinished(() => {
      vi.unstubAllEnvs();
    });
    const lowRes = await readFile(fixturePath('icc-display-p3.png'));
    await expect(run(lowRes, identity, { metadata: 'keep' })).rejects.toMatchObject({
      code: 'disk_full',
      message: expect.stringMatching(
        /data to \/nowhere\/tmp \(ENOENT\).* With metadata=none .* set TMPDIR/,
      ),
    });
    expect((await run(lowRes, identity)).width).toBeGreaterThan(0);
  });
});

describe('the recipe beside what the owner wrote', () => {
  it.each(outputFormats)('%s: caption and software stay, XMP has ours', async (format) => {
    const texts = [
      [exifTags.imageDescription, caption],
      [exifTags.software, 'HDR+ 1.0.5'],
    ] as const;
    const after = await kept(exifBlock(texts), undefined, format);
    expect([after.caption, after.software]).toEqual([caption, 'HDR+ 1.0.5']);
    expect(ownRecipe(after.xmp)).toMatch(recipe);
    expect(after.xmp).toContain(`pisa:Software="${software}"`);
  });

  it.each([
    ['no EXIF', undefined],
    ['no such tags', exifBlock([[0x8298, 'A. Photographer']])],
    [
      'blank ones',
      exifBlock([
        [exifTags.imageDescription, '        '],
        [exifTags.software, ''],
      ]),
    ],
  ])('is in the EXIF tags where there is %s', async (_name, exif) => {
    const after = await kept(exif, undefined, 'png');
    expect(after.caption).toMatch(recipe);
    expect([after.software, after.xmp]).toEqual([software, '']);
  });

  it('leaves a caption in XMP alone to speak', async () => {
    const packet = (await kept(exifBlock([]), undefined, 'png')).xmp;
    expect(packet).toBe('');
    const titled = `<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt><rdf:li xml:lang="x-default">Ida</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>`;
    const after = await kept(undefined, titled, 'jpeg');
    expect([after.caption, after.software]).toEqual(['', software]);
    expect(after.xmp).toContain('Ida</rdf:li>');
    expect(ownRecipe(after.xmp)).toMatch(recipe);
  });

  it('takes the place of that of an earlier run', async () => {
    const earlier = [
      [exifTags.imageDescription, '{"pix":2,"sem":2}'],
      [exifTags.software, 'pisa-serve 0.9'],
    ] as const;
    const plain = await kept(exifBlock(earlier), undefined, 'png');
    expect(plain.caption).toMatch(recipe);
    expect([plain.software, plain.xmp]).toEqual([software, '']);
    const first = await kept(exifBlock([[exifTags.imageDescription, caption]]), undefined, 'png');
    const stale = first.xmp.replace('&quot;scale&quot;:2', '&quot;scale&quot;:9');
    expect(stale).not.toBe(first.xmp);
    const second = await kept(exifBlock([[exifTags.imageDescription, caption]]), stale, 'png');
    expect(second.xmp.match(/pisa:Recipe/g)).toHaveLength(1);
    expect(ownRecipe(second.xmp)).toMatch(recipe);
  });
});

describe('XMP for which a JPEG has no room', () => {
  const captioned = (bytes: number) => {
    const [head, tail] = [
      '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description>',
      '</dc:description></rdf:Description></rdf:RDF></x:xmpmeta>',
    ];
    return head + 'x'.repeat(bytes - head.length - tail.length) + tail;
  };

  it('is left out, and the recipe is where it would be without', async () => {
    const after = await kept(undefined, captioned(70_000), 'jpeg');
    expect([after.xmp, after.software]).toEqual(['', software]);
    expect(after.caption).toMatch(recipe);
    const exif = exifBlock([[exifTags.imageDescription, caption]]);
    const beside = await kept(exif, captioned(70_000), 'jpeg');
    expect(beside.caption).toBe(caption);
    expect(ownRecipe(beside.xmp)).toMatch(recipe);
    expect(beside.xmp).not.toContain('xxx');
  });

  it('begins where libvips leaves it out', async () => {
    const { length } = (await kept(undefined, captioned(50_000), 'jpeg')).xmp;
    const most = captioned(50_000 + 60_000 - length);
    expect((await kept(undefined, most, 'jpeg')).xmp).toHaveLength(60_000);
    const after = await kept(undefined, captioned(most.length + 1), 'jpeg');
    expect([after.xmp, after.caption]).toEqual(['', expect.stringMatching(recipe)]);
  });

  it.each(['png', 'webp', 'avif'] as const)('is kept in a %s', async (format) => {
    const { xmp } = await kept(undefined, captioned(70_000), format);
    expect(xmp.length).toBeGreaterThan(70_000);
    expect(ownRecipe(xmp)).toMatch(recipe);
  });
});

describe('XMP in a PNG', () => {
  const packet = (words: string) =>
    `<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:title="${words}"/></rdf:RDF></x:xmpmeta>`;

  it('is one chunk of UTF-8 that is not compressed, and nothing else changes', async () => {
    const { image } = await kept(undefined, packet('Zürich, 東京'), 'png');
    const png = Buffer.from(image);
    const chunk = pngChunk('iTXt', xmpChunk(packet('Zürich, 東京')));
    expect(png.subarray(33, 33 + chunk.length)).toEqual(chunk);
    expect(png.includes('zTXt')).toBe(false);
    const plain = await kept(undefined, undefined, 'png');
    expect(Buffer.concat([png.subarray(0, 33), png.subarray(33 + chunk.length)])).toEqual(
      plain.image,
    );
  });

  it('is read again, also above what would be read of a compressed one', async () => {
    const long = packet('ü'.repeat(600_000));
    const { image } = await kept(undefined, long, 'png');
    const { metadata } = await decodeImage(image, { maxPixels: 1e6 }, new RunControl());
    expect(metadata.xmp?.toString()).toBe(long);
  });
});

describe('a profile made from code points', () => {
  it.each(outputFormats)('%s: is embedded, and the colours stay', async (format) => {
    const lowRes = withCicp(await picture(16, 12), { primaries: 12, transfer: 13 });
    const params = { pix: 0, sem: 0, scale: 1, format, quality: 100, colorfix: 'none' } as const;
    const model = await loadExactIdentity();
    const { image } = await run(lowRes, model, { ...params, metadata: 'keep' });
    const { profile } = (await decodeImage(lowRes, { maxPixels: 1e6 }, new RunControl())).metadata;
    expect(profile).toBeDefined();
    expect((await sharp(image).metadata()).icc).toEqual(profile);
    // In Display P3 on both sides. WebP halves the chroma.
    const [before, after] = [await pixelsOf(lowRes), await pixelsOf(image)];
    const { psnr } = difference(after.data, before.data, 255);
    expect(psnr).toBeGreaterThan(format === 'webp' ? 24 : 40);
  });
});

describe('EXIF for which a JPEG has no room', () => {
  const makerNote = 0x927c;
  const userComment = 0x9286;
  const takenAt = '2026:01:02 03:04:05';

  /** IFD0 with the make and a pointer to the Exif IFD, which has the time and one long tag. */
  function longBlock(tag: number, bytes: number): Buffer {
    const entry = (tag: number, type: number, count: number, value: number) => {
      const field = Buffer.alloc(12);
      field.writeUInt16LE(tag);
      field.writeUInt16LE(type, 2);
      field.writeUInt32LE(count, 4);
      field.writeUInt32LE(value, 8);
      return field;
    };
    const [make, time] = [Buffer.from('Nobody\0\0'), Buffer.from(`${takenAt}\0`)];
    const makeAt = 8 + 2 + 2 * 12 + 4;
    const photoAt = makeAt + make.length;
    const timeAt = photoAt + 2 + 2 * 12 + 4;
    return Buffer.concat([
      Buffer.from('II*\0\x08\0\0\0\x02\0', 'latin1'),
      entry(0x010f, 2, 7, makeAt),
      entry(0x8769, 4, 1, photoAt),
      Buffer.alloc(4),
      make,
      Buffer.from('\x02\0', 'latin1'),
      entry(0x9003, 2, time.length, timeAt),
      entry(tag, 7, bytes, timeAt + time.length),
      Buffer.alloc(4),
      time,
      Buffer.alloc(bytes, '#'),
    ]);
  }

  it.each([
    ['that fits, stays', 'jpeg', 64_000, true],
    ['that does not, is left out alone', 'jpeg', 65_400, false],
    ['stays in other formats', 'webp', 65_400, true],
  ] as const)('a note of the maker %s', async (_, format, bytes, stays) => {
    const after = await kept(longBlock(makerNote, bytes), undefined, format);
    expect(after.block.includes(takenAt)).toBe(true);
    expect(after.block.includes('Nobody')).toBe(true);
    expect(after.block.includes('#'.repeat(bytes))).toBe(stays);
    expect(after.caption).toMatch(recipe);
  });

  it('is left out where that is not enough, and the recipe is where it would be without', async () => {
    const after = await kept(longBlock(userComment, 65_400), undefined, 'jpeg');
    expect(after.block.includes(takenAt)).toBe(false);
    expect([after.software, after.xmp]).toEqual([software, '']);
    expect(after.caption).toMatch(recipe);
  });

  it('is not written beyond its end when it is damaged', () => {
    const block = longBlock(makerNote, 8);
    for (let length = 0; length < block.length; length++) {
      expect(withoutMakerNote(block.subarray(0, length))).toHaveLength(length);
    }
  });
});

describe('EXIF', () => {
  it.each(outputFormats)('%s: the thumbnail of the input is gone', async (format) => {
    const block = exifBlock([[exifTags.software, 'HDR+ 1.0.5']]);
    expect(block.includes(thumbnail)).toBe(true);
    expect((await kept(block, undefined, format)).block.includes(thumbnail)).toBe(false);
  });

  it.each([true, false])(
    'is upright and ends with its first directory, little-endian: %s',
    (little) => {
      const block = exifBlock([[exifTags.software, 'Camera']], little);
      const after = outputExif(Buffer.concat([Buffer.from('Exif\0\0', 'latin1'), block]));
      const read16 = (at: number) => (little ? after.readUInt16LE(at) : after.readUInt16BE(at));
      expect(read16(10 + 8)).toBe(1);
      expect(after.readUInt32LE(10 + 2 * 12)).toBe(0);
      expect(exifText(after, exifTags.software)).toBe('Camera');
    },
  );

  it('is not read or written beyond its end when it is damaged', () => {
    const block = exifBlock([[exifTags.imageDescription, caption]]);
    for (let length = 0; length < block.length; length++) {
      const damaged = block.subarray(0, length);
      expect(outputExif(damaged)).toHaveLength(length);
      expect(exifText(damaged, exifTags.imageDescription).length).toBeLessThanOrEqual(
        caption.length,
      );
    }
    for (const junk of [Buffer.alloc(40, 0xff), Buffer.from('II*\0\xff\xff\xff\x7f', 'latin1')]) {
      expect(outputExif(junk)).toEqual(junk);
      expect(exifText(junk, 0xffff)).toBe('');
    }
  });
});

describe('XMP', () => {
  const namespaces =
    'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:Cam="http://ns.google.com/photos/1.0/camera/" xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"';
  const packetOf = (attributes: string, elements: string) =>
    `<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" ${namespaces} xmp:Rating="5"${attributes}>${elements}</rdf:Description></rdf:RDF></x:xmpmeta>`;
  const output = (packet: string) => outputXmp(Buffer.from(packet), {})?.toString();
  const own = '<xmp:Label>best</xmp:Label>';

  it('loses what it claims of gain maps and films, under whatever prefix, and nothing else', () => {
    const claims = ` hdrgm:Version="1.0" Cam:MotionPhoto='1'\n   Cam:MotionPhotoVersion = "1"`;
    const directory =
      '<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Mime="image/jpeg" Item:Semantic="Primary"/></rdf:li><rdf:li><Container:Item><Container:Item/></Container:Item></rdf:li></rdf:Seq></Container:Directory>';
    const packet = packetOf(claims, `${directory}${own}<Cam:MicroVideo>1</Cam:MicroVideo>`);
    const spaced = output(packet)
      ?.replace(/\s+>/, '>')
      .replace(/"5"\s+/, '"5"');
    expect(spaced).toBe(packetOf('', own));
  });

  it('stays as it is without claims, but upright', () => {
    const plain = packetOf(' tiff:Orientation="6"', own);
    expect(output(plain)).toBe(plain.replace('"6"', '"1"'));
    expect(outputXmp(undefined, {})).toBeUndefined();
  });

  it.each([
    ['an element that does not end', packetOf('', '<Cam:MicroVideo>1')],
    ['an end without beginning', packetOf('', '1</Cam:MicroVideo>')],
    ['a value with > in it', packetOf(' Cam:Note="a > b" Cam:MotionPhoto="1"', '')],
  ])('is left out whole for %s', (_name, packet) => {
    expect(output(packet)).toBeUndefined();
  });

  it('of another form stays without our properties', () => {
    expect(outputXmp(Buffer.from('<other/>'), { Recipe: '{}' })?.toString()).toBe('<other/>');
  });

  it('costs no more than its length, whatever is in it', () => {
    const many = packetOf('', '<Cam:a '.repeat(200_000) + ' Cam:b="'.repeat(200_000));
    const startedAt = performance.now();
    outputXmp(Buffer.from(many), { Recipe: '{}' });
    outputXmp(Buffer.from(packetOf('', '<Cam:a>'.repeat(200_000))), { Recipe: '{}' });
    expect(performance.now() - startedAt).toBeLessThan(3000);
  });
});
