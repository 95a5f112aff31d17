/** Stage 5, Eq. 8 of the paper: ε = λ_pix·ε_pix + λ_sem·(ε_PiSA − ε_pix), and z_H = z_L − ε. */
import type { Evaluations } from '../jobs/job.ts';
import type { Planar } from './planar.ts';
import type { RunControl } from './run-control.ts';

/** One number for the image, or a map [h,w] with one value per latent cell. */
export type Lambda = number | Float32Array;

export interface Dials {
  readonly lambdaPix: Lambda;
  readonly lambdaSem: Lambda;
}

/** What Eq. 8 asks of the UNet. */
export interface EvaluationPlan {
  /** One entry per evaluation: 0 → ε_pix, 1 → ε_PiSA. */
  readonly semantic: readonly number[];
  readonly evaluations: Evaluations;
}

/** λ = (0, 0): none. λ_sem = 0: ε_pix alone. λ_pix = λ_sem: ε_PiSA alone. Else both. */
export function planEvaluations(lambdaPix: Lambda, lambdaSem: Lambda): EvaluationPlan {
  if (lambdaPix === 0 && lambdaSem === 0) return { semantic: [], evaluations: 0 };
  if (lambdaSem === 0) return { semantic: [0], evaluations: 1 };
  if (typeof lambdaPix === 'number' && lambdaPix === lambdaSem) {
    return { semantic: [1], evaluations: 1 };
  }
  return { semantic: [0, 1], evaluations: 2 };
}

/**
 * Eq. 8, cell by cell.
 * @param epsPix [C,h,w]
 * @param epsPisa [C,h,w]
 * @param output [C,h,w]; may be one of the inputs
 */
export function combine(
  epsPix: Float32Array,
  epsPisa: Float32Array,
  lambdaPix: Lambda,
  lambdaSem: Lambda,
  output: Float32Array,
): Float32Array {
  const cells = typeof lambdaPix === 'number' ? lambdaSem : lambdaPix;
  const planeLength = typeof cells === 'number' ? output.length : cells.length;
  for (let plane = 0; plane < output.length; plane += planeLength) {
    for (let i = 0; i < planeLength; i++) {
      const pix = typeof lambdaPix === 'number' ? lambdaPix : (lambdaPix[i] as number);
      const sem = typeof lambdaSem === 'number' ? lambdaSem : (lambdaSem[i] as number);
      const fidelity = epsPix[plane + i] as number;
      output[plane + i] = pix * fidelity + sem * ((epsPisa[plane + i] as number) - fidelity);
    }
  }
  return output;
}

/** z_H = z_L − ε, in place in `latents`. Both [C,h,w]. */
export async function subtractResidual(
  latents: Planar,
  residual: Planar,
  control: RunControl,
): Promise<void> {
  const plane = latents.height * latents.width;
  for (let start = 0; start < latents.data.length; start += plane) {
    for (let i = start; i < start + plane; i++) {
      latents.data[i] = (latents.data[i] as number) - (residual.data[i] as number);
    }
    await control.breathe();
  }
}
