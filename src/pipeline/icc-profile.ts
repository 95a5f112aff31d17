/** What a colour profile can do, from its tag table (ICC.1:2022, 7.3). */

const headerBytes = 128;
/** Signature, offset and size of the data. */
const entryBytes = 12;

/** A table from the connection space to the device: what a printer has, or a well-made scanner. */
const outputTable = 'B2A0';
/** A matrix and curves, which can be turned round: what a screen or a working space has. */
const matrixTags = ['rXYZ', 'gXYZ', 'bXYZ', 'rTRC', 'gTRC', 'bTRC'];

function tagsOf(profile: Buffer): Set<string> {
  const tags = new Set<string>();
  const first = headerBytes + 4;
  if (profile.length < first) return tags;
  // A damaged count ends at the end of the bytes.
  const end = Math.min(profile.length, first + entryBytes * profile.readUInt32BE(headerBytes));
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
