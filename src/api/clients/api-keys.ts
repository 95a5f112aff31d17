/**
 * The API keys of API_KEYS_FILE. The file holds digests, never keys: who reads it can use none. Keys are 32 random
 * bytes, which nobody guesses however fast the digest is, so plain SHA-256 does.
 */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import type { Logger } from 'pino';
import Type from 'typebox';
import { Compile } from 'typebox/compile';
import { AppError } from '../../errors.ts';
import { jobPriorities } from '../../jobs/job.ts';
import { oneOf } from '../../jobs/params.ts';

const entrySchema = Type.Object(
  {
    name: Type.String({ pattern: '^[a-z0-9][a-z0-9._-]{0,63}$' }),
    sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
    requests_per_minute: Type.Optional(Type.Integer({ minimum: 0, maximum: 1_000_000 })),
    concurrent_jobs: Type.Optional(Type.Integer({ minimum: 0, maximum: 100_000 })),
    priorities: Type.Optional(Type.Array(oneOf(jobPriorities))),
    expires_at: Type.Optional(Type.String({ pattern: '^\\d{4}-\\d\\d-\\d\\dT[0-9:.]+Z$' })),
  },
  { additionalProperties: false },
);
const fileSchema = Type.Object(
  { keys: Type.Array(entrySchema, { minItems: 1 }) },
  { additionalProperties: false },
);
const checkFile = Compile(fileSchema);

/** What the file says of a key. Two keys of one name are one client: so keys are rotated. */
export type ApiKey = Type.Static<typeof entrySchema>;

/** How often the file is looked at for changes: a Secret that is rotated takes effect without a restart. */
const lookAgainMs = 5000;

export const digestOfKey = (key: string): string => createHash('sha256').update(key).digest('hex');

export class ApiKeys {
  readonly #file: string;
  #byDigest: ReadonlyMap<string, ApiKey>;
  #version: string;
  readonly #timer: NodeJS.Timeout;

  private constructor(file: string, keys: ApiKey[], version: string, logger: Logger) {
    this.#file = file;
    this.#byDigest = index(keys);
    this.#version = version;
    this.#timer = setInterval(() => {
      this.reload().catch((error: unknown) => {
        logger.error({ err: error }, 'API_KEYS_FILE cannot be used: the keys from before stay');
      });
    }, lookAgainMs).unref();
  }

  /** @throws invalid_config when the file cannot be read or is not as it must be */
  static async open(file: string, logger: Logger): Promise<ApiKeys> {
    const version = await versionOf(file).catch(unreadable(file));
    return new ApiKeys(file, await readKeys(file), version, logger);
  }

  /** @returns undefined for a key that is not in the file */
  find(key: string): ApiKey | undefined {
    return this.#byDigest.get(digestOfKey(key));
  }

  /**
   * Takes the file as it is now, if it has changed.
   * @throws invalid_config; the keys from before stay
   */
  async reload(): Promise<void> {
    const version = await versionOf(this.#file).catch(unreadable(this.#file));
    if (version === this.#version) return;
    this.#byDigest = index(await readKeys(this.#file));
    this.#version = version;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

const index = (keys: ApiKey[]) => new Map(keys.map((key) => [key.sha256, key]));

async function versionOf(file: string): Promise<string> {
  const { mtimeMs, size, ino } = await stat(file);
  return `${mtimeMs}/${size}/${ino}`;
}

/** @throws invalid_config */
export async function readKeys(file: string): Promise<ApiKey[]> {
  const text = await readFile(file, 'utf8').catch(unreadable(file));
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (cause) {
    throw new AppError('invalid_config', `API_KEYS_FILE ${file} is not JSON.`, { cause });
  }
  if (!checkFile.Check(content)) {
    const faults = checkFile
      .Errors(content)
      .map(({ instancePath, message }) => `${instancePath || '/'} ${message}`);
    throw new AppError(
      'invalid_config',
      `API_KEYS_FILE ${file} is not as docs/api-keys.md says: ${faults.join('; ')}.`,
    );
  }
  // A date that there is none of, such as a day and a month swapped, would never be over.
  const undated = content.keys.find(
    ({ expires_at }) => expires_at !== undefined && Number.isNaN(Date.parse(expires_at)),
  );
  if (undated) {
    throw new AppError(
      'invalid_config',
      `API_KEYS_FILE ${file}: expires_at of ${undated.name}, "${undated.expires_at}", is no date and time. Write it like 2027-01-31T09:00:00Z.`,
    );
  }
  return content.keys;
}

function unreadable(file: string) {
  return (cause: unknown): never => {
    throw new AppError('invalid_config', `API_KEYS_FILE ${file} cannot be read.`, { cause });
  };
}
