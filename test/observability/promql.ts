/** What a PromQL expression asks for: its selectors, and the labels that it names anywhere. */
import { parser } from '@prometheus-io/lezer-promql';

interface Matcher {
  label: string;
  op: string;
  value: string;
}

export interface Selector {
  metric: string;
  matchers: Matcher[];
}

export interface ParsedQuery {
  selectors: Selector[];
  /** In `by (…)`, `on (…)`, `ignoring (…)` and `group_left (…)`. */
  groupingLabels: string[];
}

type Node = ReturnType<typeof parser.parse>['topNode'];

/** Grafana's variables as a query that runs sees them. */
export const withoutVariables = (expr: string): string =>
  expr
    .replaceAll('$__rate_interval', '1m')
    .replaceAll('$namespace', '.*')
    .replaceAll('$price', '0.5');

/** @throws when it is not PromQL */
export function parseQuery(expr: string): ParsedQuery {
  const found: ParsedQuery = { selectors: [], groupingLabels: [] };
  parser.parse(expr).iterate({
    enter: ({ type, node, from, to }) => {
      if (type.isError) throw new Error(`Not PromQL at ${from}: ${expr}`);
      if (type.name === 'VectorSelector') found.selectors.push(selectorOf(node, expr));
      if (type.name === 'LabelName' && node.parent?.name === 'GroupingLabels') {
        found.groupingLabels.push(expr.slice(from, to));
      }
    },
  });
  return found;
}

function selectorOf(node: Node, expr: string): Selector {
  const textOf = (child: Node | null) => (child ? expr.slice(child.from, child.to) : '');
  const matchers = node.getChild('LabelMatchers')?.getChildren('UnquotedLabelMatcher') ?? [];
  return {
    metric: textOf(node.getChild('Identifier')),
    matchers: matchers.map((matcher) => ({
      label: textOf(matcher.getChild('LabelName')),
      op: textOf(matcher.getChild('MatchOp')),
      value: textOf(matcher.getChild('StringLiteral')).slice(1, -1),
    })),
  };
}
