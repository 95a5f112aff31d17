/** The curl line that `serve` prints, in front of a real shell and curl. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { fileField, shellQuoted } from '../../../src/commands/curl-line.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-curl-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test.each([
  ['plain', `image=@"/srv/plain/cat.jpg"`],
  ["Anna's photos", `image=@"/srv/Anna's photos/cat.jpg"`],
  ['a,b;c', `image=@"/srv/a,b;c/cat.jpg"`],
  ['say "x" \\ $HOME', String.raw`image=@"/srv/say \"x\" \\ $HOME/cat.jpg"`],
])('the field of a file in a folder "%s"', (name, field) => {
  const made = fileField('image', `/srv/${name}/cat.jpg`);
  expect(made).toBe(field);
  const { stdout } = spawnSync('sh', ['-c', `printf %s ${shellQuoted(made)}`], {
    encoding: 'utf8',
  });
  expect(stdout).toBe(field);
});

test.each(["Anna's photos", 'a,b;type=c', '"x"', 'back\\slash', '$HOME `id` * #', '\\"'])(
  'curl opens the file in a folder "%s"',
  (name) => {
    mkdirSync(path.join(folder, name));
    const file = path.join(folder, name, 'cat.jpg');
    writeFileSync(file, '');
    // curl opens the file before it looks for the server, of which there is none: 26 would be a file that it cannot read.
    const script = `curl -s -F ${shellQuoted(fileField('image', file))} http://127.0.0.1:1/`;
    expect(spawnSync('sh', ['-c', script]).status).toBe(7);
  },
);
