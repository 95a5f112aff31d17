/**
 * Mends the one fault of JPEGs that some phones write all their photos with. It is worth a warning to libjpeg, and harmless,
 * but as an error no warning can be let pass: of damaged pixels it says no more than that.
 */

/** Second bytes of markers (ITU-T T.81, table B.1). */
const fill = 0xff;
const baselineFrame = 0xc0;
const extendedFrame = 0xc1;
const startOfScan = 0xda;

/**
 * First and last coefficient, and the bits that successive scans would refine: a sequential scan has all 64, whole
 * (ITU-T T.81, B.2.3), whatever it says.
 */
const sequentialScan = Buffer.of(0, 63, 0);

/** @returns where the three bytes above are in a sequential JPEG's first scan; undefined if it has none, or another kind */
function scanParametersAt(jpeg: Buffer): number | undefined {
  let isSequential = false;
  // Each segment is a marker, two bytes, and its length, which counts itself.
  for (let at = 2; at + 4 < jpeg.length && jpeg[at] === 0xff; ) {
    const marker = jpeg[at + 1] as number;
    if (marker === fill) {
      at++;
      continue;
    }
    if (marker === baselineFrame || marker === extendedFrame) isSequential = true;
    if (marker === startOfScan) {
      // Behind the number of components and two bytes for each.
      const parametersAt = at + 5 + 2 * (jpeg[at + 4] as number);
      const end = parametersAt + sequentialScan.length;
      const isWhole = end === at + 2 + jpeg.readUInt16BE(at + 2) && end <= jpeg.length;
      return isSequential && isWhole ? parametersAt : undefined;
    }
    at += 2 + jpeg.readUInt16BE(at + 2);
  }
  return undefined;
}

/**
 * @param bytes of a JPEG, which may be damaged
 * @returns the JPEG with the parameters that its first scan must have; `bytes` itself where it has them
 */
export function withScanParameters(bytes: Uint8Array): Uint8Array {
  const jpeg = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const at = scanParametersAt(jpeg);
  if (at === undefined || jpeg.subarray(at, at + sequentialScan.length).equals(sequentialScan)) {
    return bytes;
  }
  const copy = Buffer.from(jpeg);
  copy.set(sequentialScan, at);
  return copy;
}
