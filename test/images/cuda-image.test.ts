/** The CUDA image, on a machine without a GPU: its libraries load, and the CPU device works with them. */
import { afterAll, describe, expect, test } from 'vitest';
import type { ComposeService } from './compose.ts';
import { differenceFromCommandLine, photos, untilReady } from './photo.ts';
import { hardened, remove, runOnce, start, stop } from './podman.ts';

const image = process.env.PISA_CUDA_IMAGE ?? '';

describe.skipIf(image === '')('the CUDA image (CUDA=1 builds it)', () => {
  const api = 'http://127.0.0.1:8080';
  const onCpu: ComposeService = {
    ...hardened,
    image,
    environment: { OPEN_ACCESS: 'anywhere', DEVICES: 'cpu' },
  };
  afterAll(() => remove('cuda-serve'));

  test('every library of the CUDA provider is found but the driver', async () => {
    const provider =
      'node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime_providers_cuda.so';
    const { code, stdout } = await runOnce({
      ...onCpu,
      entrypoint: ['sh', '-c', `LD_PRELOAD= ldd ${provider}`],
    });
    expect(code).toBe(0);
    expect(stdout).toMatch(/libcudnn\.so\.9 => \/opt\/cuda\/lib/);
    const lost = stdout.split('\n').filter((line) => line.includes('not found'));
    expect(lost.filter((line) => !line.includes('libcuda.so.1'))).toEqual([]);
  });

  test('without a driver it says what cuda:0 needs', async () => {
    const { code, stderr } = await runOnce({
      ...onCpu,
      volumes: [{ type: 'bind', source: photos, target: '/photos', read_only: true }],
      command: ['upscale', '/photos/cat-128.jpg', '/tmp/out.png', '--device', 'cuda:0'],
    });
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/The device cuda:0 cannot be used: .* It needs an NVIDIA driver/s);
  });

  test('its ONNX Runtime serves a photo on the CPU as the command line does', async () => {
    await start('cuda-serve', onCpu);
    await untilReady(api);
    expect(await differenceFromCommandLine(api)).toBeLessThanOrEqual(1);
    expect(await stop('cuda-serve')).toBe(0);
  });
});
