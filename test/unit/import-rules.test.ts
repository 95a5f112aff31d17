/** The direction of imports is a lint rule (biome.json). A rule that cannot fail is no rule: plant violations. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');
let tree: string;

beforeAll(() => {
  tree = mkdtempSync(path.join(tmpdir(), 'import-rules-'));
  const config = JSON.parse(readFileSync(path.join(root, 'biome.json'), 'utf8'));
  config.vcs = { enabled: false };
  writeFileSync(path.join(tree, 'biome.json'), JSON.stringify(config));
});
afterAll(() => rmSync(tree, { recursive: true, force: true }));

/** The faults that the project's own rules find in one planted file. */
function lint(file: string, source: string): { status: number | null; report: string } {
  const planted = path.join(tree, file);
  mkdirSync(path.dirname(planted), { recursive: true });
  writeFileSync(planted, source);
  const biome = path.join(root, 'node_modules/.bin/biome');
  const run = spawnSync(biome, ['lint', planted], { cwd: tree, encoding: 'utf8' });
  return { status: run.status, report: run.stdout + run.stderr };
}

test.each([
  ['src/pipeline/planted.ts', "import fastify from 'fastify';\nfastify();\n"],
  ['src/pipeline/planted.ts', "import { Queue } from 'bullmq';\nnew Queue('q');\n"],
  ['src/pipeline/planted.ts', "import { loadConfig } from '../config.ts';\nloadConfig();\n"],
  [
    'src/pipeline/planted.ts',
    "import { settings } from '../config/settings.ts';\nsettings.PORT;\n",
  ],
  [
    'src/pipeline/tiles/planted.ts',
    "import { openStore } from '../../storage/s.ts';\nopenStore();\n",
  ],
  ['src/api/planted.ts', "import { upscale } from '../pipeline/upscale.ts';\nupscale();\n"],
  ['src/api/routes/planted.ts', "import { x } from '../../worker/device.ts';\nx();\n"],
  ['src/api/planted.ts', "import * as ort from 'onnxruntime-node';\nort.env;\n"],
  ['src/worker/planted.ts', "import fastify from 'fastify';\nfastify();\n"],
  ['src/worker/planted.ts', "import { buildApp } from '../api/app.ts';\nbuildApp();\n"],
  ['src/worker/planted.ts', "import { upscale } from '../pipeline/upscale.ts';\nupscale();\n"],
  [
    'src/worker/device-process/planted.ts',
    "import { buildApp } from '../../api/app.ts';\nbuildApp();\n",
  ],
  ['src/jobs/planted.ts', "import { x } from '../worker/device.ts';\nx();\n"],
  ['src/webhooks/planted.ts', "import { x } from '../worker/device.ts';\nx();\n"],
  ['src/net/planted.ts', "import { loadConfig } from '../config.ts';\nloadConfig();\n"],
  ['src/images/planted.ts', "import { upscale } from '../pipeline/upscale.ts';\nupscale();\n"],
  ['test/e2e/planted.ts', "import { x } from '../../src/errors.ts';\nx();\n"],
])('%s may not hold: %s', (file, source) => {
  const { status, report } = lint(file, source);
  expect(report).toContain('noRestrictedImports');
  expect(status).not.toBe(0);
});

const readsEnvironment = 'export const a = process.env.PORT;\n';

test.each([
  'src/config/settings.ts',
  'src/worker/planted.ts',
  'src/webhooks/planted.ts',
  'src/commands/planted.ts',
  'src/metrics.ts',
])('%s may not read the environment', (file) => {
  const { status, report } = lint(file, readsEnvironment);
  expect(report).toContain('noProcessEnv');
  expect(status).not.toBe(0);
});

test('src/config.ts may', () => {
  expect(lint('src/config.ts', readsEnvironment)).toMatchObject({ status: 0 });
});

test('an import cycle is caught', () => {
  lint('src/jobs/a.ts', "import { b } from './b.ts';\n\nexport const a = () => b;\n");
  const { status, report } = lint(
    'src/jobs/b.ts',
    "import { a } from './a.ts';\n\nexport const b = () => a;\n",
  );
  expect(report).toContain('noImportCycles');
  expect(status).not.toBe(0);
});

test('an import in the right direction passes', () => {
  const { status, report } = lint(
    'src/worker/device-process/allowed.ts',
    "import { upscale } from '../../pipeline/upscale.ts';\n\nupscale();\n",
  );
  expect(report).not.toContain('noRestrictedImports');
  expect(status).toBe(0);
});
