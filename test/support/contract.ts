/** Holds answers against the committed openapi.yaml: status, media type, body, and which problem it may be. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import { expect } from 'vitest';
import { parse } from 'yaml';
import type { Answer } from './http.ts';

interface Media {
  schema: Record<string, unknown>;
}
interface Response {
  description: string;
  headers?: Record<string, unknown>;
  content?: Record<string, Media>;
}
export interface Operation {
  operationId: string;
  parameters?: { name: string; in: string; schema?: Record<string, unknown> }[];
  requestBody?: { required?: boolean; content: Record<string, Media> };
  responses: Record<string, Response>;
}

export const openapiFile = path.resolve(import.meta.dirname, '../../openapi.yaml');

export const contract = parse(readFileSync(openapiFile, 'utf8')) as {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Record<string, unknown>> };
};

const ajv = new Ajv2020({ strict: false, allErrors: true });
formats.default(ajv);
ajv.addFormat('binary', true);
ajv.addSchema({ $id: 'contract', components: contract.components });

/** Faults of `value` by a schema of the contract; none when it is valid. */
export function faults(schema: Record<string, unknown>, value: unknown): string[] {
  const local = JSON.parse(
    JSON.stringify(schema).replaceAll('"#/components', '"contract#/components'),
  ) as Record<string, unknown>;
  const validate = ajv.compile(local);
  return validate(value)
    ? []
    : (validate.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`);
}

function operationOf(operationId: string): Operation {
  const found = Object.values(contract.paths)
    .flatMap((item) => Object.values(item))
    .find((operation) => operation.operationId === operationId);
  if (!found) throw new Error(`openapi.yaml has no operation ${operationId}`);
  return found;
}

/** @param operationId undefined: the answer is to no operation, and can only be a problem */
export function expectContract(answer: Answer, operationId: string | undefined): void {
  const type = (answer.headers.get('content-type') ?? '').split(';', 1)[0] ?? '';
  const isProblem = answer.status >= 400;
  if (isProblem) {
    expect(type).toBe('application/problem+json');
    const problem = JSON.parse(answer.body.toString('utf8')) as { code: string; status: number };
    expect(faults({ $ref: '#/components/schemas/Problem' }, problem)).toEqual([]);
    expect(problem.status).toBe(answer.status);
    if (operationId === undefined) return;
    const documented = operationOf(operationId).responses[String(answer.status)];
    expect(documented?.description, `${operationId} ${answer.status}`).toContain(
      `\`${problem.code}\``,
    );
    return;
  }
  if (operationId === undefined) throw new Error('only problems answer what is no operation');
  const documented = operationOf(operationId).responses[String(answer.status)];
  expect(documented, `${operationId} documents no ${answer.status}`).toBeDefined();
  const media = documented?.content?.[type];
  if (!documented?.content) {
    expect(answer.body.length).toBe(0);
    return;
  }
  expect(media, `${operationId} ${answer.status} documents no ${type}`).toBeDefined();
  if (media && type === 'application/json') {
    expect(faults(media.schema, JSON.parse(answer.body.toString('utf8')))).toEqual([]);
  }
}
