/**
 * Refuses light that is coded for screens of high dynamic range. Read as sRGB, as libvips does, it would be a flat, grey
 * picture, and nobody would be told.
 */
import { AppError } from '../errors.ts';
import { avifTransfer } from './avif-transfer.ts';
import { eachChunk } from './png-text.ts';
import { fourCC, type ImageFormat } from './sniff.ts';

/** Transfer characteristics (ITU-T H.273, table 3). */
const names = new Map([
  [16, 'PQ'],
  [18, 'HLG'],
]);

const cICP = fourCC('cICP');
/** Four code points and what frames a chunk (PNG specification, third edition, 11.3.2.6). */
const cICPBytes = 4 + 12;

function pngTransfer(bytes: Uint8Array): number | undefined {
  const png = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let transfer: number | undefined;
  eachChunk(png, (type, start, end) => {
    if (type === cICP && end - start === cICPBytes) transfer ??= png[start + 9];
  });
  return transfer;
}

/**
 * To be asked of an image without a colour profile, which would say how its colours are to be shown.
 * @throws unsupported_media_type
 */
export function checkDynamicRange(bytes: Uint8Array, format: ImageFormat): void {
  let transfer: number | undefined;
  if (format === 'png') transfer = pngTransfer(bytes);
  if (format === 'avif') transfer = avifTransfer(bytes);
  const name = transfer === undefined ? undefined : names.get(transfer);
  if (name === undefined) return;
  const detail = `The image is HDR (its light is coded as ${name}), which is not restored. Convert the image to sRGB and send it again.`;
  throw new AppError('unsupported_media_type', detail);
}
