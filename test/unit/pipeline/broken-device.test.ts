/** A CUDA context that is broken for good, told from other failures by the words of ONNX Runtime. */
import { AsyncLocalStorage } from 'node:async_hooks';
import path from 'node:path';
import ort from 'onnxruntime-node';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { AppError } from '../../../src/errors.ts';
import { isBrokenDevice } from '../../../src/pipeline/broken-device.ts';
import { outOfMemory } from '../../../src/pipeline/out-of-memory.ts';
import { asStartFault, GraphSession, whenDeviceBreaks } from '../../../src/pipeline/session.ts';
import { bundlePath } from './fixtures.ts';

const place =
  ' ; GPU=0 ; hostname=gpu-7 ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=182 ; expr=';
const node = "Non-zero status code returned while running Conv node. Name:'' Status Message:";
const illegalAccess = `CUDA failure 700: an illegal memory access was encountered${place}cudaSetDevice(info_.device_id);`;
const refusedHandle = `CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED${place}cudnnCreate(&cudnn_handle_);`;

describe('isBrokenDevice', () => {
  it.each([
    illegalAccess,
    `CUDA failure 719: unspecified launch failure${place}cudaStreamSynchronize(stream);`,
    `CUDA failure 214: uncorrectable ECC error encountered${place}cudaStreamSynchronize(stream);`,
    `CUDA failure 999: unknown error${place}cudaStreamCreateWithFlags(&stream_, 1);`,
    `${node} CUDA error cudaErrorIllegalAddress:an illegal memory access was encountered`,
    `${node} CUDA error cudaErrorLaunchFailure:unspecified launch failure`,
    `${node} CUDA error cudaErrorECCUncorrectable:uncorrectable ECC error encountered`,
  ])('knows %s', (words) => {
    expect(isBrokenDevice(new Error(words))).toBe(true);
  });

  it.each([
    `CUDA failure 2: out of memory${place}cudaMalloc((void**)&p, size);`,
    `CUDA failure 209: no kernel image is available for execution on the device${place}cudaGetLastError();`,
    `CUDA failure 701: too many resources requested for launch${place}cudaGetLastError();`,
    `CUDA failure 7000: no such number${place}cudaGetLastError();`,
    `${node} CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available for execution on the device`,
    // The next run says whether it was for good.
    `CUBLAS failure 13: the function failed to launch on the GPU${place}cublasGemmEx();`,
    `CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED${place}cudnnConvolutionForward();`,
    refusedHandle,
  ])('does not take for it %s', (words) => {
    expect(isBrokenDevice(new Error(words))).toBe(false);
  });
});

const contract = {
  file: path.join(bundlePath('identity'), 'unet.onnx'),
  dtype: 'float32',
  inputs: { latents: [null, 48, null, null], semantic: [null] },
  outputs: { residual: [null, 48, null, null] },
} as const;

describe('a graph on a device that is broken', () => {
  const lost = {
    code: 'device_lost',
    retryable: true,
    message: expect.stringContaining('docs/devices.md'),
    cause: expect.objectContaining({ message: illegalAccess }),
  };

  const { create } = ort.InferenceSession;

  /** A session of the CPU, which stands in for one of a GPU and says this when it is run. */
  async function openOn(cuda: number, words: string) {
    const native = await create(contract.file, { executionProviders: ['cpu'] });
    vi.spyOn(native, 'run').mockRejectedValue(new Error(words));
    const release = vi.spyOn(native, 'release');
    const spy = vi.spyOn(ort.InferenceSession, 'create').mockResolvedValue(native);
    const session = await GraphSession.open(contract, { executionProvider: { cuda } });
    spy.mockRestore();
    const values = () => ({ data: new Float32Array(48), dims: [1, 48, 1, 1] });
    const semantic = { data: Float32Array.of(0), dims: [1] };
    const run = () => session.run({ latents: values(), semantic }, { residual: values() });
    return { session, run, release };
  }

  it('cannot be run: the device is lost', async () => {
    await expect((await openOn(1, illegalAccess)).run()).rejects.toMatchObject(lost);
  });

  it('is told of once, by whoever broke it', async () => {
    const current = new AsyncLocalStorage<string>();
    const told: [unknown, string | undefined][] = [];
    whenDeviceBreaks(({ code }) => told.push([code, current.getStore()]));
    onTestFinished(() => whenDeviceBreaks(() => undefined));
    const [first, second] = [await openOn(5, illegalAccess), await openOn(5, illegalAccess)];
    const run = (who: string, session: typeof first) =>
      expect(current.run(who, session.run)).rejects.toMatchObject(lost);
    await Promise.all([run('culprit', first), run('bystander', second)]);
    expect(told).toEqual([['device_lost', 'culprit']]);
  });

  it('cannot be opened: the device is lost, not the model at fault', async () => {
    const spy = vi
      .spyOn(ort.InferenceSession, 'create')
      .mockRejectedValue(new Error(illegalAccess));
    onTestFinished(() => spy.mockRestore());
    const opening = GraphSession.open(contract, { executionProvider: { cuda: 2 } });
    await expect(opening).rejects.toMatchObject(lost);
  });

  it('is not released, which CUDA may not come back from', async () => {
    const [first, second] = [await openOn(3, 'another fault'), await openOn(3, illegalAccess)];
    await expect(second.run()).rejects.toMatchObject(lost);
    await Promise.all([first.session.release(), second.session.release()]);
    expect(first.release).not.toHaveBeenCalled();
    expect(second.release).not.toHaveBeenCalled();
    const elsewhere = await openOn(4, 'another fault');
    await elsewhere.session.release();
    expect(elsewhere.release).toHaveBeenCalledOnce();
  });
});

describe('at a start', () => {
  const cuda = { cuda: 0 };
  const lost = new AppError('device_lost', 'Lost.', { cause: new Error(illegalAccess) });

  it.each([
    ['a broken device', lost, 'an illegal memory access'],
    ['one without handles', outOfMemory('cuda:0', new Error(refusedHandle)), 'NOT_INITIALIZED'],
    ['a first run that fails', new Error('CUDA failure 209: no kernel image'), 'no kernel image'],
  ])('%s is one that cannot be used, with what it needs', (_, error, words) => {
    expect(asStartFault(error, cuda)).toMatchObject({
      code: 'device_unavailable',
      message: expect.stringMatching(`cuda:0 cannot be used: .*${words}.*7.5, 8.x, 9.0 or 12.x`),
    });
  });

  it.each([
    outOfMemory('cuda:0', new Error('CUDA failure 2: out of memory')),
    new AppError('invalid_bundle', 'Not a bundle.'),
  ])('$code stays what it is', (error) => {
    expect(asStartFault(error, cuda)).toBe(error);
  });
});
