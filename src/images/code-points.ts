/** The numbers by which video, and images that are made like it, name their colours (ITU-T H.273). */
import { matrixProfile } from './matrix-profile.ts';

export interface CodePoints {
  /** Of the colours that R, G and B stand for (table 2). */
  readonly primaries: number;
  /** How the light is coded (table 3). */
  readonly transfer: number;
}

/**
 * Read with the curve of sRGB: 13 is that curve, 2 says nothing, and the others are the one of BT.709, 601 and 2020. That is
 * a camera's curve; the screens such pictures are made on have a gamma of 2.4 (BT.1886), to which sRGB's is closer than the
 * camera's turned round.
 */
const sRgbLike = new Set([1, 2, 6, 13, 14, 15]);

/** R, G and B as columns of XYZ: the chromaticities with the white D65, brought to D50 by Bradford's transform. */
const profiles = new Map([
  // BT.709 has the primaries of sRGB.
  [1, undefined],
  [
    9,
    matrixProfile('BT.2020 primaries, sRGB curve', [
      [0.67348, 0.27904, -0.00193],
      [0.16567, 0.67534, 0.02998],
      [0.12505, 0.04561, 0.79685],
    ]),
  ],
  [
    12,
    matrixProfile('Display P3', [
      [0.51512, 0.24119, -0.00105],
      [0.29198, 0.69224, 0.04188],
      [0.1571, 0.06657, 0.78407],
    ]),
  ],
]);

/** True for colours that are sRGB's, or that `profileOf` has a profile for. */
export const areKnown = ({ primaries, transfer }: CodePoints): boolean =>
  profiles.has(primaries) && sRgbLike.has(transfer);

/** @returns the profile of such colours; undefined where they are sRGB, or count as it because they are not known */
export const profileOf = (points: CodePoints): Buffer | undefined =>
  areKnown(points) ? profiles.get(points.primaries) : undefined;
