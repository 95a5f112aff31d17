/**
 * `pisa-serve keys create`: a new API key. The key goes to stdout, once; the file gets its digest.
 * `pisa-serve keys webhook-secret`: what a client verifies its webhooks with.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, type Stats } from 'node:fs';
import { chmod, chown, rename, rm, stat, writeFile } from 'node:fs/promises';
import { type ApiKey, digestOfKey, readKeys } from '../api/clients/api-keys.ts';
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import { clientSecrets } from '../webhooks/signing-keys.ts';

interface KeyLimits {
  requestsPerMinute?: number;
  concurrentJobs?: number;
}

/**
 * @param file made if it is not there; replaced whole, so that no reader sees half of it
 * @throws invalid_config when `file` cannot be written, belongs to another user, or is there and no key file
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
  await replaceFile(file, `${JSON.stringify({ keys: [...keys, entry] }, null, 2)}\n`);
  process.stderr.write(
    `The key of ${name}, which is shown this once; ${file} has its digest only:\n`,
  );
  process.stdout.write(`${key}\n`);
}

/** Whoever could read the file can read it still: the service may run as another user than whoever adds a key. */
async function replaceFile(file: string, content: string): Promise<void> {
  const temporary = `${file}.${process.pid}.new`;
  await writeFile(temporary, content, { mode: 0o600 }).catch((cause: NodeJS.ErrnoException) => {
    throw new AppError(
      'invalid_config',
      `${file} cannot be written (${cause.code}). Name a file in a folder that is there and that you may write to.`,
      { cause },
    );
  });
  try {
    const before = await stat(file).catch(() => undefined);
    if (before) {
      await giveTo(before, temporary, file);
      await chmod(temporary, before.mode & 0o7777);
    }
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Before the mode is set: a change of the owner may take bits of it away. */
async function giveTo({ uid, gid }: Stats, temporary: string, file: string): Promise<void> {
  const ours = await stat(temporary);
  if (ours.uid === uid && ours.gid === gid) return;
  await chown(temporary, uid, gid).catch((cause: unknown) => {
    const owner =
      ours.uid === uid ? `group ${gid}, which is none of yours` : `another user (${uid})`;
    throw new AppError(
      'invalid_config',
      `${file} belongs to ${owner}, who could not read it any more. Run this as its owner with that group, or as root.`,
      { cause },
    );
  });
}

/**
 * Prints the webhook secret of a client, of the newest WEBHOOK_SECRET.
 * @throws invalid_config when the settings are not those of a service that signs for clients; invalid_parameter when
 *   the key file has no such client
 */
export async function printWebhookSecret(name: string, config: Config): Promise<void> {
  const { API_KEYS_FILE: file } = config;
  const [secret] = clientSecrets(config, name);
  if (secret === undefined) {
    throw new AppError(
      'invalid_config',
      'The secrets of clients are made from WEBHOOK_SECRET, which is not set. Run this with the settings of the service.',
    );
  }
  if (file === '') {
    throw new AppError(
      'invalid_config',
      'API_KEYS_FILE is not set. Run this with the settings of the service; one without API keys signs with WEBHOOK_SECRET itself.',
    );
  }
  const names = [...new Set((await readKeys(file)).map((key) => key.name))];
  if (!names.includes(name)) {
    throw new AppError(
      'invalid_parameter',
      `${file} has no client ${name}. It has ${names.join(', ')}.`,
    );
  }
  process.stderr.write(`${name} verifies its webhooks with:\n`);
  process.stdout.write(`${secret}\n`);
}
