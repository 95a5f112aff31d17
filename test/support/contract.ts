/** Holds answers, and webhooks, against the committed openapi.yaml: status, headers, media type, body, and which problem it may be. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import { expect } from 'vitest';
import { parse } from 'yaml';
import { type ErrorCode, errorCatalogue } from '../../src/errors.ts';
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
  tags: string[];
  parameters?: {
    name: string;
    in: string;
    schema?: Record<string, unknown>;
  }[];
  requestBody?: { required?: boolean; content: Record<string, Media> };
  responses: Record<string, Response>;
}

export const openapiFile = path.resolve(import.meta.dirname, '../../openapi.yaml');

export const contract = parse(readFileSync(openapiFile, 'utf8')) as {
  paths: Record<string, Record<string, Operation>>;
  webhooks: Record<string, Record<string, Operation>>;
  tags: { name: string }[];
  components: { schemas: Record<string, Record<string, unknown>> };
};

const ajv = new Ajv2020({ strict: false, allErrors: true });
formats.default(ajv);
ajv.addFormat('binary', true);
// To clients a code of a later release is valid too. To us it is none.
ajv.addKeyword({
  keyword: 'x-extensible-enum',
  type: 'string',
  validate: (known: string[], value: string) => known.includes(value),
});

/** Objects that are open to fields of later releases, closed: what we answer is what is documented. */
const closed = (text: string): Record<string, unknown> =>
  JSON.parse(text, (_name, value) =>
    value?.type === 'object' && value.properties && !('additionalProperties' in value)
      ? { ...value, additionalProperties: false }
      : value,
  );
ajv.addSchema({ $id: 'contract', components: closed(JSON.stringify(contract.components)) });

/** Faults of `value` by a schema of the contract; none when it is valid. */
export function faults(schema: Record<string, unknown>, value: unknown): string[] {
  const local = closed(JSON.stringify(schema).replaceAll('"#/components', '"contract#/components'));
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
  expect(answer.headers.get('x-request-id')).toMatch(/./);
  if (isProblem) {
    expect(type).toBe('application/problem+json');
    const problem = JSON.parse(answer.body.toString('utf8')) as { code: ErrorCode; status: number };
    expect(faults({ $ref: '#/components/schemas/Problem' }, problem)).toEqual([]);
    expect(problem.status).toBe(answer.status);
    const { retryable } = errorCatalogue[problem.code];
    const asksAgain = answer.headers.has('retry-after');
    expect(asksAgain, `Retry-After of ${problem.code}`).toBe(retryable && answer.status !== 500);
    if (operationId === undefined) return;
    const documented = operationOf(operationId).responses[String(answer.status)];
    expect(documented?.description, `${operationId} ${answer.status}`).toContain(
      `\`${problem.code}\``,
    );
    // Others of the same status may ask for it where this one does not.
    if (asksAgain) expect(documented?.headers).toHaveProperty('Retry-After');
    return;
  }
  if (operationId === undefined) throw new Error('only problems answer what is no operation');
  const documented = operationOf(operationId).responses[String(answer.status)];
  expect(documented, `${operationId} documents no ${answer.status}`).toBeDefined();
  expect(answer.headers.has('retry-after')).toBe('Retry-After' in (documented?.headers ?? {}));
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

/** @param headers as Node gives them: names in lower case */
export function expectWebhook(headers: Record<string, unknown>, body: string): void {
  const { parameters = [], requestBody } = contract.webhooks.upscaleEnded?.post ?? {};
  expect(parameters.map(({ name }) => name)).toContain('webhook-signature');
  for (const { name, schema = {} } of parameters) {
    const value = schema.type === 'integer' ? Number(headers[name]) : headers[name];
    expect(faults(schema, value), name).toEqual([]);
  }
  const media = requestBody?.content['application/json'];
  expect(headers['content-type']).toBe('application/json');
  expect(faults(media?.schema ?? { not: {} }, JSON.parse(body))).toEqual([]);
}
