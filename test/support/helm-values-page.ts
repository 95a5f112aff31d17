/** What `make docs` writes of the Helm chart: docs/helm-values.md, and the settings that its schema lists. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { isMap, isScalar, type Pair, parseDocument, type YAMLMap } from 'yaml';
import { settings } from '../../src/config/settings.ts';

const chart = path.resolve(import.meta.dirname, '../../helm/pisa-serve');

interface Value {
  path: string;
  value: unknown;
  comment: string;
}

/** Every value that has a comment: those are the ones to set; what is inside a commented one is part of it. */
function commentedValues(map: YAMLMap, prefix = ''): Value[] {
  return map.items.flatMap((item, index) => {
    const { key, value } = item as Pair;
    if (!isScalar(key)) throw new Error('values.yaml has a key that is no text');
    const name = `${prefix}${key.value}`;
    // The parser gives the comment before the first key of a map to the map.
    const first = index === 0 && prefix !== '' ? map.commentBefore : undefined;
    const comment = (key.commentBefore ?? first ?? '').replaceAll(/\s+/g, ' ').trim();
    if (isMap(value) && explainsItsValues(value)) return commentedValues(value, `${name}.`);
    if (comment === '') throw new Error(`values.yaml says nothing of ${name}`);
    return [{ path: name, value: isScalar(value) ? value.value : JSON.stringify(value), comment }];
  });
}

const explainsItsValues = (map: YAMLMap): boolean =>
  Boolean(map.commentBefore) ||
  map.items.some(({ value }) => isMap(value) && explainsItsValues(value));

function helmValues(): Value[] {
  const document = parseDocument(readFileSync(path.join(chart, 'values.yaml'), 'utf8'));
  return commentedValues(document.contents as YAMLMap);
}

export const helmSchemaFile = path.join(chart, 'values.schema.json');

/** The schema, which is written by hand but for one list: the settings that `config` takes. */
export function helmSchema(): string {
  const schema = JSON.parse(readFileSync(helmSchemaFile, 'utf8')) as {
    $defs: { config: { propertyNames: object } };
  };
  const templates = path.join(chart, 'templates');
  const text = readdirSync(templates, { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => readFileSync(path.join(templates, name), 'utf8'))
    .join('\n');
  const given = new Set([...text.matchAll(/name: ([A-Z][A-Z0-9_]+)\b/g)].map(([, name]) => name));
  const names = Object.keys(settings).filter((name) => !given.has(name));
  schema.$defs.config.propertyNames = {
    anyOf: [{ enum: names }, { pattern: '^OTEL_[A-Z0-9_]+$' }],
  };
  return `${JSON.stringify(schema, null, 2)}\n`;
}

export function helmValuesPage(): string {
  const rows = helmValues().map(({ path: name, value, comment }) => {
    const shown = value === '' ? 'empty' : `\`${value}\``;
    return `| \`${name}\` | ${shown} | ${comment.replaceAll('|', '\\|')} |`;
  });
  return `# Values of the Helm chart

[kubernetes.md](kubernetes.md) tells how to use them. \`helm/pisa-serve/values.schema.json\` has the types; helm refuses a
value that does not fit.

<!-- Generated from helm/pisa-serve/values.yaml by \`make docs\`; a test fails on drift. -->

| value | default | what it does |
|---|---|---|
${rows.join('\n')}
`;
}
