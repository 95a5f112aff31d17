/** A job that has succeeded, for an API that has no worker. */
import {
  inputKey,
  outputKey,
  type StageTimings,
  stages,
  type UpscaleJobData,
  type UpscaleJobResult,
} from '../../src/jobs/job.ts';
import { reuseRecords } from '../../src/jobs/stored-results.ts';
import type { TestApi } from './api.ts';
import { jobData } from './worker.ts';

const lifeSeconds = 60;

/**
 * Writes its record and its upload, but no result.
 * @param more of its data than its image says
 * @returns its id
 */
export async function writeFinishedJob(
  { redis, store }: Pick<TestApi, 'redis' | 'store'>,
  image: Buffer,
  more: Partial<UpscaleJobData> = {},
): Promise<string> {
  const id = crypto.randomUUID();
  const data: UpscaleJobData = { ...jobData(id, image), ...more };
  const expiresAt = Date.now() + lifeSeconds * 1000;
  const output = { ...data.input, key: outputKey(id), format: 'png' as const, expiresAt };
  const stageTimes = Object.fromEntries(stages.map((stage) => [stage, 1])) as StageTimings;
  const result: UpscaleJobResult = {
    output,
    colorfix: 'none',
    evaluations: 1,
    kept: [],
    timingsMs: stageTimes,
    totalMs: 7,
    model: { name: 'pisa-tiny', version: '1', sha256: 'a'.repeat(64) },
    device: 'cpu',
  };
  const params = { ...data.params, model: 'pisa-tiny' };
  const record = { data: { ...data, params }, createdAt: Date.now(), result };
  await reuseRecords.write(redis.client, id, record, lifeSeconds);
  await store.put(inputKey(id), image, lifeSeconds);
  return id;
}
