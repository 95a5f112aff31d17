/** What a colour profile can do, from its tag table (ICC.1:2022, 7.3), and whether it may be applied. */
import { AppError } from '../errors.ts';
import { lightOf } from './icc-curve.ts';

const headerBytes = 128;
/** Signature, offset and size of the data. */
const entryBytes = 12;
/** Lcms opens no profile of more than 100 tags. */
const maxTags = 1000;

/** A table from the device to the connection space, which a matrix stands in for. */
const inputTable = 'A2B0';
/** A table from the connection space to the device: what a printer has, or a well-made scanner. */
const outputTable = 'B2A0';
/** A matrix and curves, which can be turned round: what a screen or a working space has. */
const curveTags = ['rTRC', 'gTRC', 'bTRC'];
const matrixTags = ['rXYZ', 'gXYZ', 'bXYZ', ...curveTags];
/** Programs of any number of steps, which come before every other tag (ICC.1:2022, 8.2 and 10.16). */
const multiProcessTag = /^(D2B|B2D)[0-3]$/;

/** Of the profiles that printers and scanners come with, the largest have 3 or 4 MB. */
export const maxProfileBytes = 8_000_000;

/** @returns the data of each tag, as much of it as there is */
function tagsOf(profile: Buffer): Map<string, Buffer> {
  const tags = new Map<string, Buffer>();
  const first = headerBytes + 4;
  if (profile.length < first) return tags;
  const count = Math.min(profile.readUInt32BE(headerBytes), maxTags);
  // A damaged count ends at the end of the bytes.
  const end = Math.min(profile.length, first + entryBytes * count);
  for (let at = first; at + entryBytes <= end; at += entryBytes) {
    const start = profile.readUInt32BE(at + 4);
    const data = profile.subarray(start, start + profile.readUInt32BE(at + 8));
    tags.set(profile.toString('latin1', at, at + 4), data);
  }
  return tags;
}

const isOfRgb = (profile: Buffer): boolean => profile.toString('latin1', 16, 20) === 'RGB ';

const hasMatrix = (tags: ReadonlyMap<string, Buffer>): boolean =>
  matrixTags.every((tag) => tags.has(tag));

/** True when the profile says how RGB is read: libvips reads 16 bits as Display P3 where it does not. */
export function isRgbInputProfile(profile: Buffer): boolean {
  const tags = tagsOf(profile);
  return isOfRgb(profile) && (tags.has(inputTable) || hasMatrix(tags));
}

/**
 * A gamma of 1.33 goes through this point, and 1.8 is the least that photos are stored in. Of nearly linear light 8 bits
 * have too few levels for shadows: what is written in it, has stripes there.
 */
const stored = 1 / 8;
const mostLight = 1 / 16;

const isNearlyLinear = (tags: ReadonlyMap<string, Buffer>): boolean =>
  curveTags.some((tag) => (lightOf(tags.get(tag) ?? Buffer.alloc(0), stored) ?? 0) > mostLight);

/**
 * True when RGB of 8 bits can be brought into the profile's space. A profile of a camera or scanner may know the way out
 * of it only, and one of a renderer may be of linear light: then an image can be read with it, but not written.
 * @param profile as the file of the image holds it
 */
export function isRgbOutputProfile(profile: Buffer): boolean {
  if (!isOfRgb(profile)) return false;
  const tags = tagsOf(profile);
  return tags.has(outputTable) || (hasMatrix(tags) && !isNearlyLinear(tags));
}

/** A profile that is not applied is not ignored either: the colours would change without a word. */
const refusedProfile = (fault: string): AppError =>
  new AppError(
    'unsupported_media_type',
    `The image has a colour profile ${fault}. Convert the image to sRGB and send it again.`,
  );

export const tooLargeProfile = (): AppError =>
  refusedProfile(`of more than ${maxProfileBytes / 1e6} MB`);

/**
 * To be asked before the profile is applied. Lcms reads, simplifies and runs the steps of a `mpet` tag however many
 * they are, in a time that grows with their square; as all may lie on the same bytes, 11 kB were minutes. The work that any
 * other tag makes is bounded by its size.
 * @param profile as libvips has read it
 * @throws unsupported_media_type
 */
export function checkProfile(profile: Buffer): void {
  if (profile.length > maxProfileBytes) throw tooLargeProfile();
  const tag = [...tagsOf(profile).keys()].find((name) => multiProcessTag.test(name));
  if (tag) throw refusedProfile(`with multi-process elements (tag ${tag}), which is not applied`);
}
