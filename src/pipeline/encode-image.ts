/** Stage 8: 8-bit samples → bytes of the output format, alpha re-attached, the recipe embedded. */
import type { Sharp } from 'sharp';
import { sharp } from '../images/sharp-policy.ts';
import type { OutputFormat, UpscaleParams } from '../jobs/params.ts';
import { bandsOf } from './bands.ts';
import type { DecodedImage } from './decode-image.ts';
import { keepMetadata, unknownDensity } from './keep-metadata.ts';
import type { Planar } from './planar.ts';
import { withChunks, xmpChunk } from './png-chunks.ts';
import type { Recipe } from './recipe.ts';
import { Resampled } from './resample.ts';
import type { RunControl } from './run-control.ts';
import type { Samples } from './samples.ts';

/**
 * Alpha is enlarged as the colours are that the model is fed with, so that a mask lies where its picture does at every
 * scale: libvips would put it half an output pixel to the right and below.
 * @param superRes RGBA, whose every fourth sample is set
 * @param alpha [1,h,w] in [0,1], of the input's size
 */
async function putAlpha(superRes: Samples, alpha: Planar, control: RunControl): Promise<void> {
  const { width, data } = superRes;
  const mask = new Resampled(alpha, superRes);
  for (const { y, height } of bandsOf(superRes)) {
    const band = new Float32Array(height * width);
    mask.read({ y, x: 0, height, width }, band);
    for (let i = 0; i < band.length; i++) {
      data[4 * (y * width + i) + 3] = 255 * (band[i] as number);
    }
    await control.breathe();
  }
}

/**
 * All are deterministic. On 9 megapixels of photo, PNG level 2 with filters takes 0.4 s and 6.8 MB (level 6:
 * 1.5 s and 5.8 MB; level 4 without filters: 0.4 s and 8.6 MB), AVIF effort 1 takes 1.0 s. Lossy WebP has colour at half
 * the resolution only; `smartSubsample` fits it to the edges, for 0.5 s more on 4 megapixels and a few per cent more bytes.
 */
const encoders: Record<OutputFormat, (image: Sharp, quality: number) => Sharp> = {
  png: (image) => image.png({ compressionLevel: 2, adaptiveFiltering: true }),
  jpeg: (image, quality) => image.jpeg({ quality, chromaSubsampling: '4:4:4' }),
  webp: (image, quality) => image.webp({ quality, smartSubsample: true }),
  avif: (image, quality) => image.avif({ quality, effort: 1, chromaSubsampling: '4:4:4' }),
};

/**
 * @param superRes sRGB, with room for alpha where `lowRes` has it
 * @param lowRes the decoded input, for its alpha channel
 */
export async function encodeImage(
  superRes: Samples,
  lowRes: DecodedImage,
  params: Pick<UpscaleParams, 'format' | 'quality' | 'metadata'>,
  recipe: Recipe,
  control: RunControl,
): Promise<Uint8Array> {
  if (lowRes.alpha) await putAlpha(superRes, lowRes.alpha, control);
  let image = toSharp(superRes);
  // JPEG has no alpha: what is transparent becomes white.
  const flat = lowRes.alpha !== undefined && params.format === 'jpeg';
  if (flat) image = image.flatten({ background: 'white' });
  if (params.metadata === 'none') return encode(withRecipe(image, recipe), params);
  const { width, height } = superRes;
  const size = { width, height, channels: flat ? 3 : superRes.channels } as const;
  const kept = await keepMetadata(image, size, lowRes.metadata, recipe, params.format);
  const file = await encode(kept.image, params);
  return kept.pngXmp ? withChunks(file, [xmpChunk(kept.pngXmp)]) : file;
}

/** Of a picture that is about a photo: no metadata but the recipe. */
export const encodeSamples = (
  samples: Samples,
  params: Pick<UpscaleParams, 'format' | 'quality'>,
  recipe: Recipe,
): Promise<Uint8Array> => encode(withRecipe(toSharp(samples), recipe), params);

const toSharp = ({ data, width, height, channels }: Samples): Sharp =>
  sharp(data, { raw: { width, height, channels }, limitInputPixels: false });

const withRecipe = (image: Sharp, { software, description }: Recipe): Sharp =>
  image
    .withDensity(unknownDensity)
    .withExif({ IFD0: { Software: software, ImageDescription: description } });

const encode = (
  image: Sharp,
  { format, quality }: Pick<UpscaleParams, 'format' | 'quality'>,
): Promise<Buffer> => encoders[format](image, quality).toBuffer();
