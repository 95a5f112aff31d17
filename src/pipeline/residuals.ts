/** Stages 3 to 5, which may find the tensors of an earlier run, and keep theirs for a later one. */
import type { Evaluations } from '../jobs/job.ts';
import { combine } from './combine.ts';
import { encodeLatents } from './encode-latents.ts';
import type { Planar } from './planar.ts';
import { predictResiduals } from './predict-residual.ts';
import type { Resampled } from './resample.ts';
import type { Run } from './run.ts';

/** z_L [C,h,w]: as kept, else encoded and kept. */
export async function keptLatents(
  resampled: Resampled,
  { model, geometry, keeper, control }: Run,
): Promise<Planar> {
  const kept = await keeper.read('latents');
  if (kept) return kept;
  const latents = await encodeLatents(resampled, geometry, model, control);
  await keeper.write('latents', latents);
  return latents;
}

const tensorOf = (semantic: number) => (semantic === 0 ? 'eps_pix' : 'eps_pisa');

export interface Residuals {
  /** [C,h,w], one for each evaluation that was asked for. */
  readonly tensors: Planar[];
  /** How many of them the UNet had to compute. */
  readonly evaluations: Evaluations;
}

/**
 * ε_pix and ε_PiSA as kept; what is missing is computed and kept.
 * @param latents [C,h,w] scaled
 * @param semantic 0 → ε_pix, 1 → ε_PiSA, each at most once
 */
export async function keptResiduals(
  latents: Planar,
  semantic: readonly number[],
  { model, keeper, control }: Run,
): Promise<Residuals> {
  const found = new Map<number, Planar>();
  for (const which of semantic) {
    const kept = await keeper.read(tensorOf(which));
    if (kept) found.set(which, kept);
  }
  const missing = semantic.filter((which) => !found.has(which));
  if (missing.length > 0) {
    const computed = await predictResiduals(latents, missing, model, control);
    for (const [i, which] of missing.entries()) {
      const tensor = computed[i] as Planar;
      found.set(which, tensor);
      await keeper.write(tensorOf(which), tensor);
    }
  }
  return {
    tensors: semantic.map((which) => found.get(which) as Planar),
    evaluations: missing.length as Evaluations,
  };
}

/**
 * Eq. 8 over the whole image.
 * @param residuals [C,h,w], in the order of `plan.semantic`; stay as they are
 * @param target [C,h,w]; may be the first of them, which is then overwritten
 * @param run or the plan and the dials of one cell of a sheet
 */
export async function combineResiduals(
  residuals: readonly Planar[],
  target: Planar,
  { plan, dials: { lambdaPix, lambdaSem }, control }: Pick<Run, 'plan' | 'dials' | 'control'>,
): Promise<void> {
  const first = residuals[0] as Planar;
  // One evaluation: λ_pix·ε_pix where λ_sem = 0, else λ·ε_PiSA where both are λ. Either way ε = λ_pix·first.
  const second = residuals[1] ?? first;
  const sem = plan.semantic.length === 2 ? lambdaSem : 0;
  const plane = target.height * target.width;
  for (let from = 0; from < target.data.length; from += plane) {
    const part = ({ data }: Planar) => data.subarray(from, from + plane);
    combine(part(first), part(second), lambdaPix, sem, part(target));
    await control.breathe();
  }
}
