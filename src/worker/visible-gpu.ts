/**
 * The GPU that a device process is shown. ONNX Runtime's CUDA provider first takes a byte of whichever GPU is the first that
 * its process sees, and turns to its own after that (`cudaMalloc` before `cudaSetDevice`): a process that sees them all would
 * hold a context, some hundred megabytes, on the first one as well, and depend on it.
 *
 * @param device as in DEVICES
 * @param visible CUDA_VISIBLE_DEVICES of the worker, whose entries are what `cuda:N` counts then
 * @returns CUDA_VISIBLE_DEVICES of the process; undefined: as it is, for whose GPU is the first one anyway, or none
 */
export function visibleGpu(device: string, visible: string | undefined): string | undefined {
  const index = Number(/^cuda:(\d+)$/.exec(device)?.[1] ?? 0);
  if (index === 0) return undefined;
  if (visible === undefined) return String(index);
  // Empty: CUDA then says that there is no device, as there is none of this number.
  return visible.split(',')[index]?.trim() ?? '';
}
