/** The rules and dashboards of the chart, and the unit tests of the rules. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { parse } from 'yaml';

export const root = path.resolve(import.meta.dirname, '../..');
export const rulesFolder = path.join(root, 'helm/pisa-serve/rules');
export const ruleTestsFolder = path.join(root, 'test/observability/rules');

interface Rule {
  alert?: string;
  record?: string;
  expr: string;
  annotations?: Record<string, string>;
}

interface RuleTest {
  name: string;
  input_series: { series: string }[];
  promql_expr_test: { expr: string; exp_samples: unknown[] }[];
}

const filesOf = (folder: string): string[] =>
  readdirSync(folder).map((name) => path.join(folder, name));

export const ruleFiles = filesOf(rulesFolder);
export const ruleTestFiles = filesOf(ruleTestsFolder);

export const rules = ruleFiles.flatMap((file) => {
  const { groups } = parse(readFileSync(file, 'utf8')) as { groups: { rules: Rule[] }[] };
  return groups
    .flatMap((group) => group.rules)
    .map((rule) => ({ ...rule, name: rule.alert ?? rule.record ?? '' }));
});

export const ruleTests = ruleTestFiles.flatMap((file) => {
  const { tests } = parse(readFileSync(file, 'utf8')) as { tests: RuleTest[] };
  return tests;
});
