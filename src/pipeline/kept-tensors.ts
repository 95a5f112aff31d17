/**
 * What one run leaves for later ones at other dials: z_L, ε_pix and ε_PiSA, in float16. The pipeline only
 * says what it wants kept and asks for it again; where that is, and for how long, is the caller's business.
 */
import { createHash } from 'node:crypto';
import { float16ToFloat32, float32ToFloat16 } from './float16.ts';
import type { Geometry } from './geometry.ts';
import { graphFiles } from './manifest.ts';
import type { Model } from './model.ts';
import { Planar } from './planar.ts';
import type { RunControl } from './run-control.ts';

export type TensorName = 'latents' | 'eps_pix' | 'eps_pisa';

export interface KeptTensors {
  /** The bytes last written under this name, or undefined when they are not (or no longer) there. */
  read(name: TensorName): Promise<Uint8Array | undefined>;
  /** Begins to write: keeping is a service to later runs, so this one neither waits for it nor hears of a failure. */
  write(name: TensorName, bytes: Uint8Array): void;
}

const fingerprintBytes = 32;
/** Raised when a release makes other tensors of the same image: 2 fills in the colours of what is transparent. */
const generation = 2;
const bytesPerHalf = 2;
/** Values per slice of the loops below. */
const sliceValues = 262_144;

/** Bytes of z_L, ε_pix and ε_PiSA together, as they are kept. */
export function keptBytes({ latents }: Geometry, model: Pick<Model, 'manifest'>): number {
  const values = model.manifest.latents.channels * latents.height * latents.width;
  return 3 * (fingerprintBytes + bytesPerHalf * values);
}

/** The tensors of one image: reads them back only for the weights and the size that they were made with. */
export class TensorKeeper {
  readonly #kept: KeptTensors | undefined;
  readonly #control: RunControl;
  readonly #size: { channels: number; height: number; width: number };
  readonly #fingerprint: Buffer;

  /** @param kept undefined: nothing is kept, nothing is found */
  constructor(
    kept: KeptTensors | undefined,
    geometry: Geometry,
    { manifest }: Pick<Model, 'manifest'>,
    control: RunControl,
  ) {
    this.#kept = kept;
    this.#control = control;
    const { width, height } = geometry.latents;
    this.#size = { channels: manifest.latents.channels, height, width };
    const { encoder, unet } = manifest.graphs;
    const weights = [encoder, unet].flatMap(graphFiles).map(({ sha256 }) => sha256);
    const facts = JSON.stringify([generation, weights, geometry, this.#size]);
    this.#fingerprint = createHash('sha256').update(facts).digest();
  }

  /** @returns [C,h,w] to float16 precision, or undefined */
  async read(name: TensorName): Promise<Planar | undefined> {
    const bytes = await this.#kept?.read(name);
    const { channels, height, width } = this.#size;
    const length = channels * height * width;
    if (bytes?.length !== fingerprintBytes + bytesPerHalf * length) return undefined;
    if (!this.#fingerprint.equals(bytes.subarray(0, fingerprintBytes))) return undefined;
    // A copy, for a Uint16Array begins at an even address.
    const halves = new Uint16Array(new Uint8Array(bytes.subarray(fingerprintBytes)).buffer);
    const tensor = new Planar(channels, height, width);
    for (let from = 0; from < length; from += sliceValues) {
      const to = from + sliceValues;
      float16ToFloat32(halves.subarray(from, to), tensor.data.subarray(from, to));
      await this.#control.breathe();
    }
    return tensor;
  }

  /** @param tensor [C,h,w] */
  async write(name: TensorName, tensor: Planar): Promise<void> {
    if (!this.#kept) return;
    const { length } = tensor.data;
    const bytes = new Uint8Array(fingerprintBytes + bytesPerHalf * length);
    bytes.set(this.#fingerprint);
    const halves = new Uint16Array(bytes.buffer, fingerprintBytes);
    for (let from = 0; from < length; from += sliceValues) {
      const to = from + sliceValues;
      float32ToFloat16(tensor.data.subarray(from, to), halves.subarray(from, to));
      await this.#control.breathe();
    }
    this.#kept.write(name, bytes);
  }
}
