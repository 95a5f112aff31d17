/** The npm package, unpacked where nothing else of the repository is: what it needs is in it. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { photo, root } from './service.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-package-'));
  execFileSync('npm', ['pack', '--silent', '--pack-destination', folder], { cwd: root });
  execFileSync('sh', ['-c', 'tar -xzf pisa-serve-*.tgz'], { cwd: folder });
  // In place of npm's registry.
  symlinkSync(path.join(root, 'node_modules'), path.join(folder, 'node_modules'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('its command upscales a photo', async () => {
  const { bin } = JSON.parse(readFileSync(path.join(folder, 'package/package.json'), 'utf8'));
  const command = path.join(folder, 'package', bin['pisa-serve']);
  mkdirSync(path.join(folder, 'empty'));
  execFileSync(command, ['upscale', photo('cat-128.jpg'), 'out.png'], {
    cwd: path.join(folder, 'empty'),
    stdio: 'pipe',
  });
  const { width, height } = await sharp(path.join(folder, 'empty/out.png')).metadata();
  expect([width, height]).toEqual([512, 512]);
});

test('it holds the playground', () => {
  expect(readFileSync(path.join(folder, 'package/web/index.html'), 'utf8')).toContain('main.js');
});
