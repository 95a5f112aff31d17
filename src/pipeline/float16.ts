/**
 * IEEE 754 half precision, as ONNX Runtime's float16 tensors hold it: one Uint16 per number.
 * Node 20 has no Float16Array.
 */

/** All 65,536 half values as float32, built once: decoding is a look-up. */
let decodeTable: Float32Array | undefined;

function decodeOne(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** float16 bits → float32, exactly. `output` has the length of `halves`. */
export function float16ToFloat32(halves: Uint16Array, output: Float32Array): Float32Array {
  decodeTable ??= Float32Array.from({ length: 65536 }, (_, half) => decodeOne(half));
  for (let i = 0; i < halves.length; i++) {
    output[i] = decodeTable[halves[i] as number] as number;
  }
  return output;
}

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);

/** Rounds to nearest, ties to even; beyond ±65504 becomes ±Infinity; NaN stays NaN. */
function encodeOne(value: number): number {
  float[0] = value;
  const word = bits[0] as number;
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    // Normal: rebias the exponent (127 → 15) and round the 13 bits that fall off.
    const rounded = magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1);
    return sign | (rounded >>> 13);
  }
  // Subnormal: adding 0.5 lets float32 arithmetic itself round to a multiple of 2^-24.
  float[0] = Math.abs(value) + 0.5;
  return sign | ((bits[0] as number) - 0x3f000000);
}

/** float32 → float16 bits. `output` has the length of `values`. */
export function float32ToFloat16(values: Float32Array, output: Uint16Array): Uint16Array {
  for (let i = 0; i < values.length; i++) output[i] = encodeOne(values[i] as number);
  return output;
}
