/** What other dials cost, against a fresh job with one evaluation: `POST /upscale/{id}/adjust`. */
import { table } from './results.ts';
import { getJob, type JobObject, type Service, upscaleSync } from './service.ts';
import { median } from './statistics.ts';

export interface AdjustRow {
  side: number;
  /** Median milliseconds from acceptance to end. */
  freshMs: number;
  adjustMs: number;
  /** Median of the quotients of pairs that ran one after the other. */
  ratio: number;
}

/** One adjust for image bytes; the job when it has ended. */
async function adjustSync(service: Service, id: string, query: string): Promise<JobObject> {
  const response = await fetch(`${service.url}/upscale/${id}/adjust?${query}`, {
    method: 'POST',
    headers: { accept: 'image/*' },
  });
  if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
  await response.arrayBuffer();
  return getJob(service, response.headers.get('x-job-id') ?? '');
}

/** @param photo an image of `side`² pixels */
export async function measureAdjust(
  service: Service,
  side: number,
  photo: Buffer,
  runs: number,
): Promise<AdjustRow> {
  const pairs: { fresh: number; adjust: number }[] = [];
  for (let run = 0; run < runs; run += 1) {
    // Fresh and adjusted take turns, so that a slow moment of the machine hits both.
    const { job } = await upscaleSync(service, photo, { pix: 1, sem: 1 });
    const adjusted = await adjustSync(service, job.id, 'pix=0.6&sem=0.6');
    const total = ({ timings_ms }: JobObject) => timings_ms.total ?? Number.NaN;
    pairs.push({ fresh: total(job), adjust: total(adjusted) });
  }
  return {
    side,
    freshMs: median(pairs.map(({ fresh }) => fresh)),
    adjustMs: median(pairs.map(({ adjust }) => adjust)),
    ratio: median(pairs.map(({ fresh, adjust }) => adjust / fresh)),
  };
}

export const adjustTable = (rows: readonly AdjustRow[]): string =>
  table(
    ['input', 'fresh job, one evaluation, ms', 'adjust, ms', 'adjust / fresh'],
    rows.map(({ side, freshMs, adjustMs, ratio }) => [
      `${side}²`,
      freshMs.toFixed(0),
      adjustMs.toFixed(0),
      `${ratio.toFixed(2)} ×`,
    ]),
  );
