import { expect, test } from 'vitest';
import { visibleGpu } from '../../../src/worker/visible-gpu.ts';

test.each([
  ['cpu', undefined, undefined],
  ['webgpu', '3', undefined],
  ['cuda:0', undefined, undefined],
  ['cuda:0', '3,5', undefined],
  ['cuda:2', undefined, '2'],
  ['cuda:1', '3,5', '5'],
  ['cuda:1', 'GPU-8932f937, GPU-46fb1c5e', 'GPU-46fb1c5e'],
  ['cuda:11', '3,5', ''],
  ['cuda:1', '', ''],
])('%s of CUDA_VISIBLE_DEVICES=%s is shown %s', (device, visible, shown) => {
  expect(visibleGpu(device, visible)).toBe(shown);
});
