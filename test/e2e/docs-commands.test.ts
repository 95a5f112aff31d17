/**
 * Every command in README.md and docs/*.md runs: a curl or CLI line here, against a real service; a make target
 * that CI runs by itself, or that takes too long for a test, is named in `runElsewhere` and must exist, and so must a
 * module of Python.
 */
import { execFile, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { Validator } from '@seriousme/openapi-schema-validator';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RunningService, root, startService } from './service.ts';

const run = promisify(execFile);

/** Run by .ci/run itself or by a test of its own (api and worker: test/e2e/split.test.ts). */
const runElsewhere = [
  /^make (build|serve|test|test-models|test-observability|check|bench( BENCH_FLAGS=--huge)?|train|evaluate|docs|openapi)$/,
  /^node dist\/cli\.js models (add|remove) /, // test/e2e/models-add.test.ts
  /^WEBHOOK_SECRET=whsec_… API_KEYS_FILE=\S+ node dist\/cli\.js keys webhook-secret /, // test/e2e/webhooks.test.ts
  /^MODEL=pisa-sr DEVICE_MAX_RSS_MEGABYTES=\d+ node dist\/cli\.js serve$/, // with other bundles: test/integration/models.test.ts
  /^(npm pack|ONNXRUNTIME_NODE_INSTALL=skip npm install --global )/, // without npm's registry: test/e2e/package.test.ts
  /^make convert BASE=/, // with small random weights: python/tests/test_convert.py
  /^(python\/)?\.venv\/bin\/python -m pisa_models\.\w+( |$)/, // python/tests
  /^docker (build|compose|run) /, // CI has no container engine, and the pages say what was run
  /^REDIS_URL=\S+ (HOST=\S+ |DEVICES=\S+ |API_KEYS_FILE=\S+ )*node dist\/cli\.js (api|worker)$/,
];

const pages = ['README.md', ...readdirSync(path.join(root, 'docs')).map((name) => `docs/${name}`)]
  .filter((name) => name.endsWith('.md'))
  .map((name) => ({ name, text: readFileSync(path.join(root, name), 'utf8') }));

const commands = pages.flatMap(({ name, text }) =>
  [...text.matchAll(/^```sh\n([\s\S]*?)^```/gm)].flatMap(([, block = '']) =>
    block
      .replaceAll('\\\n', ' ')
      .split('\n')
      .filter((line) => line.trim() !== '' && !line.startsWith('#'))
      .map((line) => ({ name, line: line.replace(/\s+# .*$/, '').trim() })),
  ),
);

let service: RunningService;
let folder: string;

beforeAll(async () => {
  service = await startService();
  // A stand-in for the repository's folder, so that what the commands write lands outside of it.
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-docs-'));
  mkdirSync(path.join(folder, 'test'));
  for (const name of [
    'dist',
    'models',
    'node_modules',
    'package.json',
    'test/photos',
    'openapi.yaml',
  ]) {
    symlinkSync(path.join(root, name), path.join(folder, name));
  }
});
afterAll(async () => {
  await service.stop();
  rmSync(folder, { recursive: true, force: true });
});

test('the pages hold commands', () => {
  expect(commands.length).toBeGreaterThan(8);
});

test('each make target that the pages name exists', () => {
  const targets = commands.map(({ line }) => /^make (\S+)/.exec(line)?.[1]).filter((name) => name);
  expect(targets.length).toBeGreaterThan(2);
  for (const target of targets) {
    const dry = spawnSync('make', ['-n', target ?? ''], { cwd: root, encoding: 'utf8' });
    expect(dry.status, `make ${target}: ${dry.stderr}`).toBe(0);
  }
});

test('each module of Python that the pages run exists', () => {
  const modules = commands.flatMap(({ line }) => /-m (pisa_models\.[\w.]+)/.exec(line)?.[1] ?? []);
  expect(modules.length).toBeGreaterThan(1);
  const missing = modules.filter((module) => {
    const file = path.join(root, 'python', ...module.split('.'));
    return !existsSync(`${file}.py`) && !existsSync(path.join(file, '__main__.py'));
  });
  expect(missing).toEqual([]);
});

test.each(pages)('every link of $name leads somewhere', ({ name, text }) => {
  const targets = [...text.matchAll(/\]\(([^)#]+)(#[^)]*)?\)/g)].map(([, target = '']) => target);
  const missing = targets
    .filter((target) => !/^https?:/.test(target))
    .filter((target) => !existsSync(path.join(root, path.dirname(name), target)));
  expect(missing).toEqual([]);
});

test('the document for generated clients is valid, and has the form alone', async () => {
  const { line = '' } = commands.find((command) => command.line.endsWith('upscale-api.json')) ?? {};
  const here = line.replace('http://127.0.0.1:8080', service.url);
  await run('bash', ['-c', `set -o pipefail; ${here}`], { cwd: folder });
  const document = JSON.parse(readFileSync(path.join(folder, 'upscale-api.json'), 'utf8'));
  const { valid, errors } = await new Validator().validate(document);
  expect([valid, errors ?? []]).toEqual([true, []]);
  const { content } = document.paths['/upscale'].post.requestBody;
  expect(Object.keys(content)).toEqual(['multipart/form-data']);
});

// Lines of a page build on each other (ID=…), so they run in order, in one shell per page.
const pageScripts = pages
  .map(({ name }) => ({
    name,
    lines: commands
      .filter((command) => command.name === name)
      .map(({ line }) => line)
      .filter((line) => !runElsewhere.some((pattern) => pattern.test(line))),
  }))
  .filter(({ lines }) => lines.length > 0);

test.each(pageScripts)('the commands of $name run', async ({ lines }) => {
  const script = ['set -eu', ...lines].join('\n').replaceAll('http://127.0.0.1:8080', service.url);
  await run('bash', ['-c', script], { cwd: folder });
});
