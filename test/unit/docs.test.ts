/** Generated pages of docs/: `make docs` writes them (vitest -u), this fails when they drift. */
import path from 'node:path';
import { expect, test } from 'vitest';
import { errorsPage } from '../support/errors-page.ts';
import { helmSchema, helmSchemaFile, helmValuesPage } from '../support/helm-values-page.ts';
import { settingsPage } from '../support/settings-page.ts';

const docs = path.resolve(import.meta.dirname, '../../docs');

test('docs/settings.md says what src/config/settings.ts holds', async () => {
  await expect(settingsPage()).toMatchFileSnapshot(path.join(docs, 'settings.md'));
});

test('docs/errors.md says what src/errors.ts holds', async () => {
  await expect(errorsPage()).toMatchFileSnapshot(path.join(docs, 'errors.md'));
});

test('docs/helm-values.md says what helm/pisa-serve/values.yaml holds', async () => {
  await expect(helmValuesPage()).toMatchFileSnapshot(path.join(docs, 'helm-values.md'));
});

test('`config` of the chart takes each setting that no other value of the chart governs', async () => {
  await expect(helmSchema()).toMatchFileSnapshot(helmSchemaFile);
});
