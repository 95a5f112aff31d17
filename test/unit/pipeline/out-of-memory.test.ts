/** Want of memory, told from other failures by the words of ONNX Runtime, CUDA, cuBLAS, cuDNN and Vulkan. */
import path from 'node:path';
import ort from 'onnxruntime-node';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { loadManifest } from '../../../src/pipeline/manifest.ts';
import { isOutOfMemory } from '../../../src/pipeline/out-of-memory.ts';
import {
  type ExecutionProvider,
  GraphSession,
  whenDeviceBreaks,
} from '../../../src/pipeline/session.ts';
import { StageSessions } from '../../../src/pipeline/strips/stage-sessions.ts';
import { bundlePath, fixturePath } from './fixtures.ts';

const arena =
  '/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*)';
const node = "Non-zero status code returned while running Conv node. Name:'' Status Message:";
const place =
  '; GPU=0 ; hostname=gpu-7 ; file=/onnxruntime_src/cuda_allocator.cc ; line=72 ; expr=';
const cudaMalloc = `CUDA failure 2: out of memory ${place}cudaMalloc((void**)&p, size);`;

describe('isOutOfMemory', () => {
  it.each([
    // As ONNX Runtime 1.30 threw it on a CPU, and its source has it for CUDA.
    `${node} ${arena} Failed to allocate memory for requested buffer of size 805306368`,
    `${node} std::bad_alloc`,
    `${node} ${arena} Available memory of 34699008 is smaller than requested bytes of 945041920`,
    cudaMalloc,
    'CudaMempoolArena::Alloc: cudaMallocFromPoolAsync failed: out of memory (2), size=8589934592',
    `CUBLAS failure 3: the resource allocation failed ${place}cublasCreate(&cublas_handle_);`,
    `CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ${place}cublasCreate(&cublas_handle_);`,
    `CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED ${place}cublasCreate(&cublas_handle_);`,
    `CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED ${place}cudnnCreate(&cudnn_handle_);`,
    `CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ${place}cudnnCreate(&cudnn_handle_);`,
    `CUDNN failure 4004: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ${place}cudnnCreate(&cudnn_handle_);`,
    'vkAllocateMemory failed with VK_ERROR_OUT_OF_DEVICE_MEMORY\n - While calling [Device].CreateBuffer([BufferDescriptor]).',
  ])('knows %s', (words) => {
    expect(isOutOfMemory(new Error(words))).toBe(true);
  });

  it.each([
    `CUDA failure 209: no kernel image is available for execution on the device ${place}cudaGetLastError();`,
    `CUDA failure 701: too many resources requested for launch ${place}cudaGetLastError();`,
    `CUBLAS failure 13: the function failed to launch on the GPU ${place}cublasGemmEx();`,
    `CUBLAS failure 1: the library was not initialized ${place}cublasGemmEx();`,
    `${node} CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED ${place}s_.cudnn_fe_graph->validate()`,
    'OrtSessionOptionsAppendExecutionProvider_Cuda: Failed to load shared library',
    'libjemalloc.so.2: cannot allocate memory in static TLS block',
    'Load model from unet.onnx failed:Protobuf parsing failed.',
  ])('does not take for it %s', (words) => {
    expect(isOutOfMemory(new Error(words))).toBe(false);
  });
});

describe('a graph', () => {
  const contract = {
    file: path.join(bundlePath('identity'), 'unet.onnx'),
    dtype: 'float32',
    inputs: { latents: [null, 48, null, null], semantic: [null] },
    outputs: { residual: [null, 48, null, null] },
  } as const;
  const expected = {
    code: 'out_of_device_memory',
    retryable: true,
    message: expect.stringMatching(
      /^The device cuda:1 had too little memory .*DEVICE_MEMORY_GIGABYTES/,
    ),
    cause: expect.objectContaining({ message: cudaMalloc }),
  };
  /** Sessions of the CPU, which stand in for those of a GPU and say this when they are opened, or run. */
  function stub(when: 'opened' | 'run', words: string, onRun = (): void => {}): void {
    const create = ort.InferenceSession.create;
    const spy = vi.spyOn(ort.InferenceSession, 'create');
    onTestFinished(() => spy.mockRestore());
    spy.mockImplementation(async () => {
      if (when === 'opened') throw new Error(words);
      const session = await create(contract.file, { executionProviders: ['cpu'] });
      vi.spyOn(session, 'run').mockImplementation(async () => {
        onRun();
        throw new Error(words);
      });
      return session;
    });
  }

  const run = async (executionProvider: ExecutionProvider = { cuda: 1 }): Promise<void> => {
    const session = await GraphSession.open(contract, { executionProvider });
    const values = () => ({ data: new Float32Array(48), dims: [1, 48, 1, 1] });
    const semantic = { data: Float32Array.of(0), dims: [1] };
    await session
      .run({ latents: values(), semantic }, { residual: values() })
      .finally(() => session.release());
  };

  it('that cannot be opened for want of memory is a job that may succeed later', async () => {
    stub('opened', cudaMalloc);
    await expect(run()).rejects.toMatchObject(expected);
  });

  it('so is one that cannot be run for want of it; then no session of the process runs on that GPU', async () => {
    const native = vi.fn();
    stub('run', cudaMalloc, native);
    const told: unknown[] = [];
    whenDeviceBreaks(({ code }) => told.push(code));
    onTestFinished(() => whenDeviceBreaks(() => undefined));
    await expect(run()).rejects.toMatchObject(expected);
    await expect(run()).rejects.toMatchObject(expected);
    expect(native).toHaveBeenCalledOnce();
    expect(told).toEqual(['out_of_device_memory']);
  });

  it('a CPU runs on', async () => {
    const native = vi.fn();
    stub('run', 'std::bad_alloc', native);
    const starved = { code: 'out_of_device_memory' };
    await expect(run('cpu')).rejects.toMatchObject(starved);
    await expect(run('cpu')).rejects.toMatchObject(starved);
    expect(native).toHaveBeenCalledTimes(2);
  });

  it.each(['cpu', 'webgpu', { cuda: 0 }] as const)(
    'does not lay memory out in one block on %o: a second run would need more than there is',
    async (executionProvider) => {
      const spy = vi.spyOn(ort.InferenceSession, 'create').mockRejectedValue(new Error('no'));
      onTestFinished(() => spy.mockRestore());
      await expect(GraphSession.open(contract, { executionProvider })).rejects.toThrow();
      expect(spy.mock.lastCall?.[1]).toMatchObject({ enableMemPattern: false });
    },
  );

  it('that cannot be opened for another reason says that the device cannot be used', async () => {
    stub('opened', 'CUDA failure 100: no CUDA-capable device is detected');
    await expect(run()).rejects.toMatchObject({
      code: 'device_unavailable',
      message: expect.stringMatching(/no CUDA-capable device is detected\. .*driver 580/),
    });
  });

  it('that cannot be run for another reason says that one', async () => {
    stub('run', 'CUDA failure 701: too many resources requested for launch');
    await expect(run({ cuda: 2 })).rejects.toThrow(/^CUDA failure 701/);
  });

  it('of one stage, opened for one image, is no device without a driver either', async () => {
    const folder = fixturePath('stages/sd-small');
    const { strips, dtype } = (await loadManifest(folder)).graphs.decoder;
    if (!strips) throw new Error('sd-small has no strips');
    const file = path.join(folder, strips.file);
    const stages = new StageSessions(file, strips, dtype, { executionProvider: { cuda: 1 } });
    stub('opened', cudaMalloc);
    await expect(stages.with(0, async () => undefined)).rejects.toMatchObject(expected);
  });
});
