/** The dashboards in the chart are those of dashboards.ts: `make docs` writes them, this fails when they drift. */
import path from 'node:path';
import { expect, test } from 'vitest';
import { dashboards } from '../support/dashboards.ts';

const folder = path.resolve(import.meta.dirname, '../../helm/pisa-serve/dashboards');

test.each(Object.entries(dashboards))('%s is up to date', async (name, dashboard) => {
  const text = `${JSON.stringify(dashboard, null, 2)}\n`;
  await expect(text).toMatchFileSnapshot(path.join(folder, name));
});

test.each(Object.entries(dashboards))(
  'every panel of %s says what it shows',
  (_name, { panels = [] }) => {
    const shown = panels.filter(({ type }) => type !== 'row');
    expect(shown.length).toBeGreaterThan(8);
    for (const panel of shown) {
      expect(panel).toMatchObject({
        title: expect.stringMatching(/./),
        description: expect.stringMatching(/\.$/),
      });
    }
  },
);
