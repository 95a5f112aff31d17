import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Lambda, planEvaluations } from '../../../src/pipeline/combine.ts';
import type { Model } from '../../../src/pipeline/model.ts';
import { Planar } from '../../../src/pipeline/planar.ts';
import { predictResiduals } from '../../../src/pipeline/predict-residual.ts';
import { combineResiduals } from '../../../src/pipeline/residuals.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { bundlePath, difference } from './fixtures.ts';
import { loadOnCpu } from './run.ts';

let identity: Model;
beforeAll(async () => {
  identity = await loadOnCpu(bundlePath('identity'));
});
afterAll(() => identity.dispose());

const latents = new Planar(48, 38, 54);
for (let i = 0; i < latents.data.length; i++) latents.data[i] = Math.sin(i * 0.7);
const cells = latents.height * latents.width;

const at = (lambda: Lambda, cell: number): number =>
  typeof lambda === 'number' ? lambda : (lambda[cell] as number);

/** The UNet of the identity bundle gives ε_pix = 0.1·z and ε_PiSA = 0.3·z. */
const wanted = (pix: Lambda, sem: Lambda): Float32Array =>
  latents.data.map((z, i) => z * (0.1 * at(pix, i % cells) + 0.2 * at(sem, i % cells)));

const ramp = Float32Array.from({ length: cells }, (_, cell) => (2 * cell) / cells);
const waves = Float32Array.from({ length: cells }, (_, cell) => 1 + Math.cos(cell));

describe('the residual of Eq. 8 over many tiles', () => {
  it.each([
    ['numbers', 0.6, 1.4, 2],
    ['equal numbers', 1.3, 1.3, 1],
    ['no semantics', 0.8, 0, 1],
    ['two maps', ramp, waves, 2],
    ['a map and a number', ramp, 0.5, 2],
    ['a number and a map', 0.5, waves, 2],
    ['a map without semantics', ramp, 0, 1],
  ] as [string, Lambda, Lambda, number][])('%s', async (_, lambdaPix, lambdaSem, evaluations) => {
    const plan = planEvaluations(lambdaPix, lambdaSem);
    expect(plan.evaluations).toBe(evaluations);
    const dials = { lambdaPix, lambdaSem };
    const control = new RunControl();
    const residuals = await predictResiduals(latents, plan.semantic, identity, control);
    const residual = new Planar(48, 38, 54);
    await combineResiduals(residuals, residual, { plan, dials, control });
    expect(difference(residual.data, wanted(lambdaPix, lambdaSem)).max).toBeLessThan(2e-6);
  });
});
