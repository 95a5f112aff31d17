/**
 * Tells a CUDA context that is broken for good from other failures of a graph: whatever is asked of it next fails too,
 * until its process ends. ONNX Runtime has no code for it, only words.
 */
import { AppError } from '../errors.ts';

/**
 * CUDA 13 says of them that "the process must be terminated and relaunched" (driver_types.h), and of an uncorrectable ECC
 * fault (214), an NVLink fault (220), a destroyed context (709) and an unknown fault (999) nothing better. A failed call
 * comes with its number (core/providers/cuda/cuda_call.cc), a failed kernel with its name (cuda_kernel.h).
 *
 * What cuBLAS and cuDNN say of a kernel that did not run (13 or 14, 5000) may mean less; if it does not, the next run in that
 * process gets one of these.
 */
const words =
  /\bCUDA (?:failure (?:214|220|226|700|702|709|710|71[4-9]|721|810|911|999):|error cudaError(?:ECCUncorrectable|NvlinkUncorrectable|Contained|IllegalAddress|LaunchTimeout|ContextIsDestroyed|Assert|HardwareStackError|IllegalInstruction|MisalignedAddress|InvalidAddressSpace|InvalidPc|LaunchFailure|TensorMemoryLeak|MpsClientTerminated|ExternalDevice|Unknown):)/;

/** @param error what ONNX Runtime threw, when a session was created or run */
export function isBrokenDevice(error: unknown): boolean {
  return words.test(error instanceof Error ? error.message : String(error));
}

/**
 * Whoever has the process ends it.
 * @param device as in DEVICES
 */
export function brokenDevice(device: string, cause: unknown): AppError {
  return new AppError(
    'device_lost',
    `The device ${device} failed during the job, and its process is started again. The same may succeed later. If it does not, its operator finds what CUDA said in the log, and in docs/devices.md what to do.`,
    { cause },
  );
}
