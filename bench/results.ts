/** Results as Markdown: printed, and kept in bench/results. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { root } from './service.ts';

const row = (cells: readonly (string | number)[]): string => `| ${cells.join(' | ')} |`;

export const table = (
  head: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string => [row(head), row(head.map(() => '---')), ...rows.map(row)].join('\n');

/** @param name of the file, without its ending */
export function writeResult(name: string, page: string): void {
  const folder = path.join(root, 'bench/results');
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, `${name}.md`), page);
  console.log(page);
}
