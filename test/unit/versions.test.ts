/** One version everywhere: nodes keep the image that they have of a tag, so a release must never reuse one. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { parse } from 'yaml';

const read = (file: string) =>
  readFileSync(path.resolve(import.meta.dirname, '../..', file), 'utf8');
const { version, engines } = JSON.parse(read('package.json'));

test('chart, lock file, OpenAPI document, images and changelog are of the version of package.json', () => {
  expect(parse(read('helm/pisa-serve/Chart.yaml'))).toMatchObject({ version, appVersion: version });
  expect(JSON.parse(read('package-lock.json')).version).toBe(version);
  expect(parse(read('openapi.yaml')).info.version).toBe(version);
  for (const file of ['docker/Dockerfile', 'docker/converter.Dockerfile']) {
    expect(read(file), file).toContain(`ARG VERSION=${version}\n`);
  }
  expect(/^## (\S+)$/m.exec(read('CHANGELOG.md'))?.[1]).toBe(version);
});

test('the oldest Node.js is the same wherever it is asked for', () => {
  const oldest = engines.node.replace('>=', '');
  expect(JSON.parse(read('package-lock.json')).packages[''].engines).toEqual(engines);
  expect(read('src/cli.ts')).toContain(`const oldest = '${oldest}';`);
  expect(read('README.md')).toContain(`Node.js ${oldest} or newer`);
  expect(read('scripts/setup.sh').match(/Node\.js \d+\.\d+\.\d+ or newer/g)).toEqual([
    `Node.js ${oldest} or newer`,
    `Node.js ${oldest} or newer`,
  ]);
});

test('the images of docs/kubernetes.md are those that the chart asks for', () => {
  const tags = [...read('docs/kubernetes.md').matchAll(/pisa-serve:(\d\S*)/g)].map(
    ([, tag]) => tag,
  );
  expect(new Set(tags)).toEqual(new Set([version, `${version}-cuda`]));
});
