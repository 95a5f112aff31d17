/** docs/errors.md, generated from the error catalogue. */
import { errorCatalogue } from '../../src/errors.ts';

export function errorsPage(): string {
  const rows = Object.entries(errorCatalogue).map(
    ([code, { status, title, retryable }]) =>
      `| \`${code}\` | ${status} | ${title} | ${retryable ? 'yes' : 'no'} |`,
  );
  return `# Errors

Every error answer is an RFC 9457 problem object (\`application/problem+json\`): \`type\`, \`title\`, \`status\`,
the stable \`code\` of this table, a \`detail\` that says what happened and what to do, and, for faulty
parameters, \`errors[]\` with a \`pointer\` and a \`detail\` each; of a \`scale\` that is too large for the image also the
\`maximum\` that would be taken. A failed job carries the same object, without \`errors\`, as its \`error\`. Codes and fields
may be added: go by the \`status\` of a code that you do not know, and ignore other fields.

What may succeed when tried again comes with \`Retry-After\`, in seconds, unless its status is 500.

<!-- Generated from src/errors.ts by \`make docs\`; a test fails on drift. -->

| code | status | title | may succeed when tried again |
|---|---|---|---|
${rows.join('\n')}
`;
}
