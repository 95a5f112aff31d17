/**
 * Which jobs get a device for themselves: those whose earlier attempt ended as one does that shared its device with too
 * much. Whoever is tried again because the store was away shares it as before.
 */
import { type ErrorCode, fromFailureText } from '../errors.ts';
import type { UpscaleJob } from '../jobs/job-snapshot.ts';

/** Want of memory comes as `internal` where a library under ONNX Runtime does not call it so, see docs/devices.md. */
const faultsOfSharing: ReadonlySet<ErrorCode> = new Set([
  'device_lost',
  'out_of_device_memory',
  'internal',
]);

export function runsAlone({
  attemptsMade,
  stalledCounter,
  failedReason,
}: Pick<UpscaleJob, 'attemptsMade' | 'stalledCounter' | 'failedReason'>): boolean {
  if (stalledCounter > 0) return true;
  // Of several faults only the last one is known.
  if (attemptsMade > 1) return true;
  return attemptsMade > 0 && faultsOfSharing.has(fromFailureText(failedReason).code);
}
