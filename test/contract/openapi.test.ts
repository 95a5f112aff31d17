/** openapi.yaml and the service agree both ways. `npm run openapi` writes the file (vitest --update). */
import { readFileSync } from 'node:fs';
import { Validator } from '@seriousme/openapi-schema-validator';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { buildApp } from '../../src/api/app.ts';
import { problemContentType } from '../../src/api/problem-schema.ts';
import {
  AppError,
  type ErrorCode,
  errorCatalogue,
  errorCodes,
  toProblem,
} from '../../src/errors.ts';
import { startApi, type TestApi } from '../support/api.ts';
import { contract, expectContract, faults, openapiFile } from '../support/contract.ts';
import { photo } from '../support/hostile-images.ts';
import { json, send } from '../support/http.ts';

/** These end the process at its start, with a text: they never meet HTTP. */
const commandFaults: ErrorCode[] = [
  'invalid_config',
  'invalid_bundle',
  'device_unavailable',
  'bundle_not_added',
];
/** The pages for people, swagger-ui and the playground, are no part of the contract. */
const isContract = (path: string): boolean => !/^(\*|\/|\/(docs|playground)(\/.*)?)$/.test(path);

/** Reads Fastify's tree of routes: four columns for each level, a name, its methods in parentheses. */
function routesOf(tree: string): { path: string; method: string }[] {
  const above: string[] = [];
  return tree.split('\n').flatMap((line) => {
    const [, indent = '', name = '', methods = ''] =
      /^([│ ]*)[├└]── (\S+)(?: \((.*)\))?/.exec(line) ?? [];
    const depth = indent.length / 4;
    above[depth] = name;
    const path = above.slice(0, depth + 1).join('');
    return methods === '' ? [] : methods.split(', ').map((method) => ({ path, method }));
  });
}

let api: TestApi;
beforeAll(async () => {
  api = await startApi();
});
afterAll(() => api.stop());

test('openapi.yaml says what the routes say', async () => {
  const { config, queue, store } = api;
  const app = await buildApp({ config, queue, store, logger: api.logger });
  await app.ready();
  const said = JSON.parse(JSON.stringify(app.swagger()));
  await app.close();
  const text = stringify(said, { lineWidth: 100, aliasDuplicateObjects: false });
  await expect(text).toMatchFileSnapshot(openapiFile);
});

test('openapi.yaml is valid OpenAPI 3.1', async () => {
  const validator = new Validator();
  const { valid, errors } = await validator.validate(openapiFile);
  expect(errors ?? []).toEqual([]);
  expect(valid).toBe(true);
  expect(validator.version).toBe('3.1');
});

test('a client that fills defaults in asks for nothing else: Accept decides of the format', async () => {
  const parameters = contract.paths['/upscale']?.post?.parameters ?? [];
  const filled = parameters.flatMap(({ name, in: place, schema }): [string, string][] =>
    place === 'query' && schema?.default !== undefined ? [[name, String(schema.default)]] : [],
  );
  expect(filled).toContainEqual(['scale', '4']);
  const answer = await send(`${api.url}/upscale?${new URLSearchParams(filled)}`, {
    method: 'POST',
    headers: { accept: 'image/webp', prefer: 'wait=0', 'content-type': 'image/png' },
    body: new Uint8Array(await photo('png')),
  });
  expectContract(answer, 'createUpscale');
  expect(json(answer)).toMatchObject({ params: { format: 'webp' } });
});

test('a job made from another has no defaults of its own, and an adjust needs no body', () => {
  const adjust = contract.paths['/upscale/{id}/adjust']?.post;
  expect(adjust?.parameters?.filter(({ schema }) => 'default' in (schema ?? {}))).toEqual([]);
  expect(adjust?.requestBody?.required).toBe(false);
  const sweep = contract.paths['/upscale/{id}/sweep']?.post?.parameters ?? [];
  const withDefault = sweep.filter(({ schema }) => 'default' in (schema ?? {}));
  expect(withDefault.map(({ name }) => name)).toEqual(['pix', 'sem']);
});

test('what clients receive may have fields and codes of later releases, what they send may not', () => {
  const operations = Object.values(contract.paths).flatMap((item) => Object.values(item));
  const isClosed = (part: unknown) => JSON.stringify(part).includes('"additionalProperties":false');
  const { components, webhooks } = contract;
  expect(isClosed([components, webhooks, operations.map(({ responses }) => responses)])).toBe(
    false,
  );
  expect(isClosed(contract.paths['/upscale']?.post?.requestBody)).toBe(true);
  expect(components.schemas.Problem?.properties).toMatchObject({ code: { type: 'string' } });
  expect(components.schemas.Problem?.properties).not.toHaveProperty('code.enum');
});

test('webhooks share their tag with no operation: generators write one class for each', () => {
  const tagsOf = (items: typeof contract.paths) =>
    Object.values(items).flatMap((item) => Object.values(item).flatMap(({ tags }) => tags));
  const ofPaths = new Set(tagsOf(contract.paths));
  const ofWebhooks = new Set(tagsOf(contract.webhooks));
  expect([...ofWebhooks].filter((tag) => ofPaths.has(tag))).toEqual([]);
  expect(contract.tags.map(({ name }) => name)).toEqual([...ofPaths, ...ofWebhooks]);
});

test('openapi.yaml and the router hold the same routes', async () => {
  const { config, queue, store } = api;
  const app = await buildApp({ config, queue, store, logger: api.logger });
  const tree = app.printRoutes({ commonPrefix: false });
  await app.close();
  const inRouter = routesOf(tree)
    .filter(({ path, method }) => isContract(path) && method !== 'HEAD')
    .map(({ path, method }) => `${method} ${path.replace(/:(\w+)/g, '{$1}')}`)
    .sort();
  const inFile = Object.entries(contract.paths)
    .flatMap(([path, item]) => Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`))
    .sort();
  expect(inFile.length).toBeGreaterThan(7);
  expect(inRouter).toEqual(inFile);
});

describe('problems', () => {
  test.each(errorCodes)('%s is a valid problem', (code) => {
    const error = new AppError(code, 'What to do.', {
      errors: [{ pointer: '#/query/pix', detail: 'Too much.' }],
    });
    expect(faults({ $ref: '#/components/schemas/Problem' }, toProblem(error))).toEqual([]);
  });

  test('are all documented where they can be answered', () => {
    const text = readFileSync(openapiFile, 'utf8');
    const undocumented = errorCodes.filter(
      (code) =>
        !commandFaults.includes(code) &&
        !text.includes(`\`${code}\``) &&
        !text.includes(`\`${errorCatalogue[code].status} ${code}\``),
    );
    expect(undocumented).toEqual([]);
  });

  test('are what the schema says, or it would notice', () => {
    const problem = toProblem(new AppError('not_found', 'x'));
    const schema = { $ref: '#/components/schemas/Problem' };
    expect(faults(schema, { ...problem, code: 'no_such_code' })).not.toEqual([]);
    expect(faults(schema, { ...problem, stack: 'secret' })).not.toEqual([]);
    expect(faults(schema, { ...problem, status: 200 })).not.toEqual([]);
  });
});

describe('the documents', () => {
  test('/docs/json is openapi.yaml, with a server that is relative to it', async () => {
    const served = await (await fetch(`${api.url}/docs/json`)).json();
    expect(served).toEqual({ ...contract, servers: [expect.objectContaining({ url: '../' })] });
  });

  test('/docs is a page that loads its own files only', async () => {
    const bare = await fetch(`${api.url}/docs`, { redirect: 'manual' });
    // Relative: it may be below a path of a proxy.
    expect([bare.status, bare.headers.get('location')]).toEqual([302, 'docs/']);
    const page = await send(`${api.url}/docs/`);
    expect(page.status).toBe(200);
    expect(page.headers.get('content-type')).toContain('text/html');
    expect(page.body.toString()).not.toMatch(/(?:src|href)="https?:/);
    const policy = page.headers.get('content-security-policy');
    expect(policy).toContain("default-src 'self'");
    expect(policy).not.toContain('upgrade-insecure-requests');
  });

  test('every operation says how it fails', () => {
    for (const [path, item] of Object.entries(contract.paths)) {
      for (const [method, operation] of Object.entries(item)) {
        const failures = Object.entries(operation.responses).filter(([status]) => status >= '400');
        expect(failures.length, `${method} ${path}`).toBeGreaterThan(0);
        for (const [, response] of failures) {
          expect(Object.keys(response.content ?? {})).toEqual([problemContentType]);
        }
      }
    }
  });
});
