/**
 * `metadata=keep`: gives the output the colour profile, EXIF, XMP and density of the input. sharp can only carry
 * metadata from an input image to its output, so the pixels travel in a PNG, stored without compression,
 * into which the blocks are written.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Sharp } from 'sharp';
import { sharp } from '../images/sharp-policy.ts';
import type { PixelSize } from '../jobs/output-size.ts';
import type { OutputFormat } from '../jobs/params.ts';
import { outputExif, withoutMakerNote } from './exif.ts';
import { exifChunk, profileChunk, withChunks, xmpChunk } from './png-chunks.ts';
import { type PlacedRecipe, placeRecipe, type Recipe } from './recipe.ts';
import { inTemporaryFolder } from './temporary-files.ts';
import { outputXmp } from './xmp.ts';

/** The metadata of an input, as its file holds it. */
export interface InputMetadata {
  /** ICC profile of an RGB input, if RGB can be brought into it. */
  readonly profile?: Buffer | undefined;
  readonly exif?: Buffer | undefined;
  readonly xmp?: Buffer | undefined;
  /** Whole pixels per inch along the width; absent where the file names none, or libvips does not find it (`carry`). */
  readonly density?: number | undefined;
}

/**
 * Pixels per inch of an output where nothing is known: what EXIF designates for that (EXIF 2.3, 4.6.4, XResolution), and every
 * block of EXIF has to name one. libvips would say 25.4, its own default of a pixel per millimetre.
 */
export const unknownDensity = 72;

/**
 * Bytes of XMP in a JPEG: libvips leaves out a longer packet without a word, and in one segment there is room for hardly
 * more (65,502: XMP specification, part 3, 1.1.3).
 */
const maxJpegXmpBytes = 60_000;

/** The recipe, and what libexif writes anew, surely have room beside it in the one segment of a JPEG (65,533 bytes). */
const surelyFittingExifBytes = 60_000;

export interface ImageWithMetadata {
  /** Ready for an encoder. */
  readonly image: Sharp;
  /** What is to be written into the encoded PNG: libvips would write a chunk for Latin-1, which XMP is not. */
  readonly pngXmp: Buffer | undefined;
}

const need =
  'metadata=keep needs for a photo with a colour profile. With metadata=none nothing is written.';

/** @throws disk_full: libvips reads an output profile from a file only */
const inProfile = (image: Sharp, profile: Buffer): Promise<Buffer> =>
  inTemporaryFolder('pisa-profile-', need, async (folder) => {
    const file = path.join(folder, 'output.icc');
    await writeFile(file, profile);
    return image.withIccProfile(file, { attach: false }).raw().toBuffer();
  });

const toPng = (image: Sharp): Promise<Buffer> =>
  image.png({ compressionLevel: 0, adaptiveFiltering: false }).toBuffer();

/** The image, with the blocks, the density and the texts that are to be written into its EXIF. */
async function carry(
  png: Buffer,
  { profile, exif, xmp, density }: InputMetadata,
  texts: PlacedRecipe['exif'],
  { width, height }: PixelSize,
): Promise<Sharp> {
  const file = withChunks(png, [
    ...(profile ? [profileChunk(profile)] : []),
    ...(exif ? [exifChunk(outputExif(exif))] : []),
    ...(xmp ? [xmpChunk(xmp)] : []),
  ]);
  const image = sharp(file, { limitInputPixels: false, unlimited: true });
  // Of WebP and AVIF, whose only density is in their EXIF, libvips does not read it; of a PNG it does.
  const known = density ?? (await image.metadata()).density ?? unknownDensity;
  return image
    .keepMetadata()
    .withDensity(known)
    .withExifMerge({
      IFD0: texts,
      IFD2: { PixelXDimension: String(width), PixelYDimension: String(height) },
    });
}

/**
 * As much of the EXIF as a JPEG holds: all, all but the maker's note, or nothing. libvips would leave out a longer block
 * without a word, and the recipe with it. How long a block is once libexif has written it anew, is known by trial.
 */
async function jpegMetadata(metadata: InputMetadata, recipe: Recipe): Promise<InputMetadata> {
  const { exif, ...others } = metadata;
  if (!exif || exif.length <= surelyFittingExifBytes) return metadata;
  const dot = { width: 1, height: 1, channels: 3, background: 'black' } as const;
  const png = await toPng(sharp({ create: dot }));
  for (const block of [exif, withoutMakerNote(exif)]) {
    const { placed } = outputTexts({ ...others, exif: block }, recipe, 'jpeg');
    const image = await carry(png, { exif: block }, placed.exif, dot);
    const file = await image.jpeg().toBuffer();
    if ((await sharp(file).metadata()).exif) return { ...others, exif: block };
  }
  return others;
}

interface OutputTexts {
  readonly placed: PlacedRecipe;
  readonly xmp: Buffer | undefined;
}

/** The recipe in its place, and the XMP, without the input's where there is no room for both. */
function outputTexts(
  { exif, xmp }: InputMetadata,
  recipe: Recipe,
  format: OutputFormat,
): OutputTexts {
  const placed = placeRecipe(recipe, { exif, xmp });
  const packet = outputXmp(xmp, placed.xmp);
  const isTooLarge = format === 'jpeg' && packet !== undefined && packet.length > maxJpegXmpBytes;
  return isTooLarge && xmp ? outputTexts({ exif }, recipe, format) : { placed, xmp: packet };
}

/**
 * @param image sRGB, 8 bits, with or without alpha
 * @param format of the output
 * @returns an image with the pixels in the input's profile, its metadata and the recipe
 * @throws disk_full when the temporary folder cannot take the profile
 */
export async function keepMetadata(
  image: Sharp,
  size: PixelSize & { channels: 3 | 4 },
  metadata: InputMetadata,
  recipe: Recipe,
  format: OutputFormat,
): Promise<ImageWithMetadata> {
  const { profile } = metadata;
  let source = image;
  if (profile) {
    const pixels = await inProfile(image, profile);
    source = sharp(pixels, { raw: size, limitInputPixels: false });
  }
  const fitting = format === 'jpeg' ? await jpegMetadata(metadata, recipe) : metadata;
  const { placed, xmp } = outputTexts(fitting, recipe, format);
  const isPng = format === 'png';
  const blocks = { ...fitting, xmp: isPng ? undefined : xmp };
  const carried = await carry(await toPng(source), blocks, placed.exif, size);
  return { image: carried, pngXmp: isPng ? xmp : undefined };
}
