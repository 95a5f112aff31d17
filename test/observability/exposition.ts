/** What /metrics really answered: each series' labels and the values that they had. */

/** By the name of the series, such as `pisa_queue_wait_seconds_bucket`. */
export type Series = Map<string, Map<string, Set<string>>>;

const samplePattern = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$/;
const labelPattern = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** @param texts in Prometheus's text format, of every process */
export function seriesOf(texts: readonly string[]): Series {
  const series: Series = new Map();
  for (const line of texts.flatMap((text) => text.split('\n'))) {
    const [, name, labelText = ''] = samplePattern.exec(line) ?? [];
    if (name === undefined) continue;
    const labels = series.get(name) ?? new Map<string, Set<string>>();
    series.set(name, labels);
    for (const [, label = '', value = ''] of labelText.matchAll(labelPattern)) {
      labels.set(label, (labels.get(label) ?? new Set()).add(value));
    }
  }
  return series;
}
