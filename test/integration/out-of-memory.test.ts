/** ONNX Runtime's own words when a real process has no memory left: on a CPU, for want of a GPU. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Build, buildService, root } from '../support/build.ts';

let build: Build;
beforeAll(async () => {
  build = await buildService();
});
afterAll(() => build.remove());

test.each([
  { session: 'of a model', keepsMemory: true, words: /Failed to allocate memory for requested/ },
  { session: 'of a stage', keepsMemory: false, words: /std::bad_alloc/ },
])('a session $session that is given no more says so', ({ keepsMemory, words }) => {
  const program = path.join(root, 'test/support/starved-session.mjs');
  const bundle = path.join(root, 'test/fixtures/bundles/blur');
  const args = [program, build.folder, bundle, String(keepsMemory)];
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  expect(stdout, stderr).not.toBe('');
  expect(JSON.parse(stdout)).toEqual({
    code: 'out_of_device_memory',
    message: expect.stringMatching(/^The device cpu had too little memory .*JOBS_PER_DEVICE=1/),
    cause: expect.stringMatching(words),
  });
});
