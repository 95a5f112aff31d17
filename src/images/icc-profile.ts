/** What a colour profile can do, from its tag table (ICC.1:2022, 7.3), and whether it may be applied. */
import { AppError } from '../errors.ts';

const headerBytes = 128;
/** Signature, offset and size of the data. */
const entryBytes = 12;
/** Lcms opens no profile of more than 100 tags. */
const maxTags = 1000;

/** A table from the connection space to the device: what a printer has, or a well-made scanner. */
const outputTable = 'B2A0';
/** A matrix and curves, which can be turned round: what a screen or a working space has. */
const matrixTags = ['rXYZ', 'gXYZ', 'bXYZ', 'rTRC', 'gTRC', 'bTRC'];
/** Programs of any number of steps, which come before every other tag (ICC.1:2022, 8.2 and 10.16). */
const multiProcessTag = /^(D2B|B2D)[0-3]$/;

/** Of the profiles that printers and scanners come with, the largest have 3 or 4 MB. */
export const maxProfileBytes = 8_000_000;

function tagsOf(profile: Buffer): Set<string> {
  const tags = new Set<string>();
  const first = headerBytes + 4;
  if (profile.length < first) return tags;
  const count = Math.min(profile.readUInt32BE(headerBytes), maxTags);
  // A damaged count ends at the end of the bytes.
  const end = Math.min(profile.length, first + entryBytes * count);
  for (let at = first; at + entryBytes <= end; at += entryBytes) {
    tags.add(profile.toString('latin1', at, at + 4));
  }
  return tags;
}

/**
 * True when RGB can be brought into the profile's space. A profile of a camera or scanner may know the way out of it
 * only: then an image can be read with it, but not written.
 * @param profile as the file of the image holds it
 */
export function isRgbOutputProfile(profile: Buffer): boolean {
  if (profile.toString('latin1', 16, 20) !== 'RGB ') return false;
  const tags = tagsOf(profile);
  return tags.has(outputTable) || matrixTags.every((tag) => tags.has(tag));
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
  const tag = [...tagsOf(profile)].find((name) => multiProcessTag.test(name));
  if (tag) throw refusedProfile(`with multi-process elements (tag ${tag}), which is not applied`);
}
