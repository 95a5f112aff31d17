/** What a tone curve of a colour profile says: samples, a gamma, or a formula (ICC.1:2022, 10.6 and 10.18). */

/** By the type of the function: g is the exponent, the rest is named as in the specification. */
const formulas: readonly ((x: number, parameters: readonly number[]) => number)[] = [
  (x, [g = 1]) => x ** g,
  (x, [g = 1, a = 1, b = 0]) => Math.max(0, a * x + b) ** g,
  (x, [g = 1, a = 1, b = 0, c = 0]) => Math.max(0, a * x + b) ** g + c,
  (x, [g = 1, a = 1, b = 0, c = 0, d = 0]) => (x >= d ? (a * x + b) ** g : c * x),
  (x, [g = 1, a = 1, b = 0, c = 0, d = 0, e = 0, f = 0]) =>
    x >= d ? (a * x + b) ** g + e : c * x + f,
];
const mostParameters = 7;

/** `para`: the function's type, then numbers of 16 bits before and 16 bits behind the point. */
function ofFormula(curve: Buffer, x: number): number | undefined {
  const formula = formulas[curve.readUInt16BE(8)];
  const count = Math.min(mostParameters, Math.floor((curve.length - 12) / 4));
  const parameters = Array.from(
    { length: count },
    (_, i) => curve.readInt32BE(12 + 4 * i) / 65_536,
  );
  return formula?.(x, parameters);
}

/** `curv`: no sample is the identity, one is a gamma, more are joined by lines. */
function ofSamples(curve: Buffer, x: number): number {
  const count = Math.min(curve.readUInt32BE(8), Math.floor((curve.length - 12) / 2));
  const sample = (i: number): number => curve.readUInt16BE(12 + 2 * Math.min(i, count - 1));
  if (count === 0) return x;
  if (count === 1) return x ** (sample(0) / 256);
  const place = x * (count - 1);
  const below = Math.floor(place);
  return (sample(below) + (place - below) * (sample(below + 1) - sample(below))) / 65_535;
}

/**
 * @param curve data of a tag such as `rTRC`, which may be damaged
 * @param x the stored value, in [0,1]
 * @returns the light, in [0,1] where the curve is sound; undefined for what is no curve
 */
export function lightOf(curve: Buffer, x: number): number | undefined {
  if (curve.length < 12) return undefined;
  const type = curve.toString('latin1', 0, 4);
  if (type === 'curv') return ofSamples(curve, x);
  return type === 'para' ? ofFormula(curve, x) : undefined;
}
