/** `pisa-serve keys create`: a new API key. The key goes to stdout, once; the file gets its digest. */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { type ApiKey, digestOfKey, readKeys } from '../api/clients/api-keys.ts';

interface KeyLimits {
  requestsPerMinute?: number;
  concurrentJobs?: number;
}

/**
 * @param file made if it is not there; replaced whole, so that no reader sees half of it
 * @throws invalid_config when `file` is there and is not a key file
 */
export async function createKey(name: string, file: string, limits: KeyLimits): Promise<void> {
  const key = `pisa_${randomBytes(32).toString('base64url')}`;
  const entry: ApiKey = {
    name,
    sha256: digestOfKey(key),
    ...(limits.requestsPerMinute === undefined
      ? {}
      : { requests_per_minute: limits.requestsPerMinute }),
    ...(limits.concurrentJobs === undefined ? {} : { concurrent_jobs: limits.concurrentJobs }),
  };
  const keys = existsSync(file) ? await readKeys(file) : [];
  const temporary = `${file}.${process.pid}.new`;
  await writeFile(temporary, `${JSON.stringify({ keys: [...keys, entry] }, null, 2)}\n`, {
    mode: 0o600,
  });
  await rename(temporary, file);
  process.stderr.write(
    `The key of ${name}, which is shown this once; ${file} has its digest only:\n`,
  );
  process.stdout.write(`${key}\n`);
}
