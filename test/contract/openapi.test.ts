/** openapi.yaml and the routes agree both ways. `npm run openapi` writes the file (vitest -u). */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { startApi, type TestApi } from '../support/api.ts';

const file = path.resolve(import.meta.dirname, '../../openapi.yaml');
let api: TestApi;
let live: Record<string, unknown>;

beforeAll(async () => {
  api = await startApi();
  live = (await (await fetch(`${api.url}/docs/json`)).json()) as Record<string, unknown>;
});
afterAll(() => api.stop());

test('openapi.yaml says what the routes say', async () => {
  await expect(
    stringify(live, { lineWidth: 100, aliasDuplicateObjects: false }),
  ).toMatchFileSnapshot(file);
});
