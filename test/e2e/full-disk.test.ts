/** A disk that fills up while an image runs in strips: the fault names the folder, and nothing is left. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { cli, photo, root } from './service.ts';

test('a temporary folder without room is named, with what to do', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'pisa-full-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const output = path.join(folder, 'out.png');
  // Output of 448 × 172: larger than the bundle's tile of 128². A limit on the size of files stands in for the disk.
  const script = `ulimit -f 100; exec "$@"`;
  const args = [process.execPath, cli, 'upscale', photo('text-112x43.png'), output];
  const { status, stderr } = spawnSync(
    'bash',
    ['-c', script, 'bash', ...args, '--model', 'sd-small'],
    {
      env: {
        ...process.env,
        MODELS_DIR: path.join(root, 'test/fixtures/stages'),
        TMPDIR: folder,
        DEVICE_THREADS: '1',
      },
      encoding: 'utf8',
    },
  );
  expect(stderr).toContain(`temporary data to ${folder} (EFBIG)`);
  expect(stderr).toMatch(/set TMPDIR to a writable folder with more/);
  expect(status).toBe(1);
  // Neither our temporary files nor those of ONNX Runtime's telemetry, which must be off.
  expect(readdirSync(folder)).toEqual([]);
});
