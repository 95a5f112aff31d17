/**
 * Tells want of memory from other failures of a graph. ONNX Runtime has no code for it, only words: its own and those of
 * the libraries below it.
 */
import { AppError } from '../errors.ts';

const words = [
  // ONNX Runtime's arena (core/framework/bfc_arena.cc): it was given no more, or may have no more.
  /Failed to allocate memory for requested buffer of size/,
  /Available memory of \d+ is smaller than requested bytes of/,
  // `cudaGetErrorString`; CUDA_ERROR_OUT_OF_MEMORY; VK_ERROR_OUT_OF_DEVICE_MEMORY, where WebGPU passes it on.
  /out[ _]of[ _](?:device[ _]|host[ _])?memory/i,
  // cuBLAS says "the resource allocation failed", or the name of its status; cuFFT, and cuDNN before and from 9 on, theirs.
  /CUBLAS failure 3:/,
  /_ALLOC(?:ATION)?_FAILED/,
  // C++, on Linux and on Windows: the memory of the process.
  /std::bad_alloc|bad allocation/,
];

/**
 * cuBLAS and cuDNN call themselves not initialised when they get no memory for a handle, which every new session asks for;
 * and when they do not fit the driver, which a process finds at its start.
 */
const refusedHandle =
  /CUBLAS failure 1: .*expr=cublas(?:Lt)?Create|CUDNN failure 1001: .*expr=cudnnCreate/;

const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** @param error what ONNX Runtime threw, when a session was created or run */
export function isOutOfMemory(error: unknown): boolean {
  const text = textOf(error);
  return isRefusedHandle(error) || words.some((pattern) => pattern.test(text));
}

/** Whether it is want of memory only if the device has worked before. */
export function isRefusedHandle(error: unknown): boolean {
  return refusedHandle.test(textOf(error));
}

/** @param device as in DEVICES */
export function outOfMemory(device: string, cause: unknown): AppError {
  const remedy =
    device === 'cpu'
      ? 'give the worker more memory, the bundle smaller tiles (docs/models.md), or set JOBS_PER_DEVICE=1'
      : 'set DEVICE_MEMORY_GIGABYTES to what others leave, for smaller tiles (docs/devices.md)';
  return new AppError(
    'out_of_device_memory',
    `The device ${device} had too little memory left. Another job on it, or another process, may have held the rest: the same may succeed later. If it does not, its operator can ${remedy}.`,
    { cause },
  );
}
