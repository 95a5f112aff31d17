/** Ctrl-C during `pisa-serve upscale`: nothing half is left, and a shell that loops over photos ends its loop. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import sharp from 'sharp';
import { expect, onTestFinished, test } from 'vitest';
import { cli, photo } from './service.ts';

test('it dies of the signal, with the files that are done and no other', async () => {
  const scratch = mkdtempSync(path.join(tmpdir(), 'pisa-stopped-'));
  onTestFinished(() => rmSync(scratch, { recursive: true, force: true }));
  const cat = photo('cat-128.jpg');
  const small = path.join(scratch, 'a.png');
  const large = path.join(scratch, 'b.png');
  writeFileSync(small, await sharp(cat).resize(16, 16).png().toBuffer());
  writeFileSync(large, await sharp(cat).resize(900, 900).png().toBuffer());
  const out = path.join(scratch, 'out');
  const child = spawn(process.execPath, [cli, 'upscale', small, large, out], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const ended = once(child, 'close');
  const lines: string[] = [];
  for await (const line of createInterface({ input: child.stderr })) {
    lines.push(line);
    // The first is done, so the second has begun.
    if (lines.length === 1) child.kill('SIGINT');
  }
  expect(await ended).toEqual([null, 'SIGINT']);
  expect(lines).toEqual([expect.stringContaining('16×16 → 64×64'), `${large}: Stopped by Ctrl-C.`]);
  expect(readdirSync(out)).toEqual(['a.png']);
});
