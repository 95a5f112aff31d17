/**
 * Finds queries that can never answer: a metric that no process serves, a label that it does not have, a value
 * that the label never takes. Such an alert never fires, and nobody notices.
 */
import type { Series } from './exposition.ts';
import { parseQuery, type Selector } from './promql.ts';

/** Labels that Prometheus adds to every series of a target. */
const targetLabels = ['job', 'instance', 'namespace'];

/**
 * Series that recording rules make: the level of a name, before its first colon, lists the labels.
 * @param names such as `namespace_code:pisa_jobs_failed:rate5m`
 */
export function recordedSeries(names: readonly string[]): Series {
  return new Map(
    names.map((name) => {
      const level = name.split(':')[0] ?? '';
      return [name, new Map(level.split('_').map((label) => [label, new Set<string>()]))];
    }),
  );
}

/** @returns one sentence for each fault */
export function faultsOf(expr: string, series: Series): string[] {
  const { selectors, groupingLabels } = parseQuery(expr);
  const known = new Set(targetLabels);
  for (const { metric } of selectors) {
    for (const label of series.get(metric)?.keys() ?? []) known.add(label);
  }
  return [
    ...selectors.flatMap((selector) => faultsOfSelector(selector, series)),
    ...groupingLabels
      .filter((label) => !known.has(label))
      .map((label) => `nothing in the query has the label ${label}`),
  ];
}

function faultsOfSelector({ metric, matchers }: Selector, series: Series): string[] {
  // Prometheus's own record of alerts, in the unit tests.
  if (metric === 'ALERTS') return [];
  const labels = series.get(metric);
  if (!labels) return [`no process serves ${metric || 'a selector without a name'}`];
  return matchers.flatMap(({ label, op, value }) => {
    if (targetLabels.includes(label)) return [];
    const values = labels.get(label);
    if (!values) return [`${metric} has no label ${label}`];
    // What is recorded has the values of what it is made of, which are checked there.
    if (values.size === 0 || op.startsWith('!')) return [];
    const wanted = op === '=' ? [value] : value.split('|');
    return wanted
      .filter((each) => ![...values].some((one) => matches(op, each, one)))
      .map((each) => `${metric} never has ${label}${op}"${each}"`);
  });
}

const matches = (op: string, wanted: string, value: string): boolean =>
  op === '=' ? wanted === value : new RegExp(`^(?:${wanted})$`).test(value);
