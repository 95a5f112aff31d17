/** Float16 graphs where JavaScript has a Float16Array, which ONNX Runtime's binding does not read: Node 24 and newer. */
import path from 'node:path';
import { expect, it, vi } from 'vitest';
import { GraphSession } from '../../../src/pipeline/session.ts';
import { bundlePath } from './fixtures.ts';

it('are fed and read where onnxruntime-common makes Float16Arrays of their bits', async () => {
  // An older Node gets one of the same bytes, which the binding does not take for halves either. onnxruntime-common looks for it
  // once, when the first tensor is made: hence a file of its own.
  if (!('Float16Array' in globalThis))
    vi.stubGlobal('Float16Array', class Float16Array extends Int16Array {});
  const contract = {
    file: path.join(bundlePath('identity-fp16'), 'unet.onnx'),
    dtype: 'float16',
    inputs: { latents: [null, 48, null, null], semantic: [null] },
    outputs: { residual: [null, 48, null, null] },
  } as const;
  const session = await GraphSession.open(contract, { executionProvider: 'cpu' });
  const dims = [1, 48, 1, 1];
  const latents = { data: new Float32Array(48).fill(2), dims };
  const residual = { data: new Float32Array(48), dims };
  const semantic = { data: Float32Array.of(1), dims: [1] };
  await session.run({ latents, semantic }, { residual });
  await session.release();
  // (0.1 + 0.2 · semantic) · latents, see make_identity_bundle.py.
  for (const value of residual.data) expect(value).toBeCloseTo(0.6, 3);
});
