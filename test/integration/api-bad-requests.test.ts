/**
 * Bad requests against the real service over real HTTP and Redis: each gets its documented 4xx problem, the
 * log stays at `info`, and the service works as before.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { startApi, type TestApi } from '../support/api.ts';
import { expectContract } from '../support/contract.ts';
import {
  animatedPng,
  claimsPixels,
  flippedBit,
  headerOnly,
  notAllowed,
  photo,
  pixelBomb,
  scrambledJpeg,
  truncated,
  twoFrames,
  zeroWidth,
} from '../support/hostile-images.ts';
import { hostileHosts, hostileUrls } from '../support/hostile-urls.ts';
import { type Answer, form, json, parseRaw, rawExchange, send } from '../support/http.ts';

const maxUploadBytes = 200_000;
const maxInputPixels = 4_000_000;
const warn = 40;
/** What a client sent is not echoed whole, in its answer or in the log. */
const maxAnswerBytes = 6000;
/** An id that no job has. */
const nobody = '00000000-0000-4000-8000-000000000000';
let api: TestApi;
let png: Buffer;

beforeAll(async () => {
  api = await startApi({
    MAX_UPLOAD_BYTES: String(maxUploadBytes),
    MAX_INPUT_PIXELS: String(maxInputPixels),
    MAX_OUTPUT_PIXELS: '20000000',
    REQUEST_TIMEOUT_SECONDS: '2',
  });
  png = await photo('png');
});
afterAll(() => api.stop());

const upscale = (): string => `${api.url}/upscale`;
const post = (query: string, init: RequestInit): Promise<Answer> =>
  send(`${api.url}/upscale${query}`, { method: 'POST', ...init });
const postImage = (bytes: Uint8Array, query = '', headers: Record<string, string> = {}) =>
  post(query, { body: bytes, headers: { 'content-type': 'image/png', ...headers } });
const postChunks = (body: ReadableStream<Uint8Array>) =>
  post('', { body, duplex: 'half', headers: { 'content-type': 'image/png' } } as RequestInit);
const postForm = (...parts: Parameters<typeof form>) => post('', form(...parts));
const image = (bytes: Uint8Array | string = png) => ({ name: 'image', fileName: 'a.png', bytes });
const query = (text: string) => () => postImage(png, `?${text}`);
const bytes = (make: () => Uint8Array | Promise<Uint8Array>) => async () => postImage(await make());
const raw = (pieces: (string | Uint8Array)[], options?: { end?: boolean }) => async () =>
  parseRaw(await rawExchange(api.port, pieces, options));
const head = (...lines: string[]) => `${lines.join('\r\n')}\r\n\r\n`;

const postJson = (body: string | Buffer): Promise<Answer> =>
  post('', {
    body: new Uint8Array(Buffer.from(body)),
    headers: { 'content-type': 'application/json' },
  });
const byUrl = (url: string) => () => postJson(JSON.stringify({ image_url: url }));

/** As many as a request line of 16 KiB holds. */
const nameCount = 2800;
const manyNames = Array.from({ length: nameCount }, (_, index) => `n${index + 1}`).join('&');

type Send = () => Promise<Answer>;
/** Name, request, and what the detail has to say, so that its reader knows what to do. */
type Row = [name: string, send: Send, names?: string | RegExp];
interface Case {
  name: string;
  send: Send;
  status: number;
  code: ErrorCode;
  /** The operation whose contract documents this answer; null: no operation is met. */
  operation: string | null;
  names: string | RegExp;
}

const answered = (status: number, code: ErrorCode, operation: string | null, rows: Row[]): Case[] =>
  rows.map(([name, send, names = '']) => ({ name, send, status, code, operation, names }));

const cases: Case[] = [
  // Parameters
  ...answered(422, 'invalid_parameter', 'createUpscale', [
    ['pix = NaN', query('pix=NaN'), /from 0 to 2 for pix .*NaN/],
    ['pix = Infinity', query('pix=Infinity'), 'pix'],
    ['pix = -1', query('pix=-1'), 'pix'],
    ['sem = 3', query('sem=3'), /from 0 to 2 for sem .*3/],
    ['sem with a comma', query('sem=1,5'), 'sem'],
    ['sem empty', query('sem='), 'sem'],
    ['pix twice', query('pix=1&pix=2'), '2 values'],
    ['scale = 5', query('scale=5'), /from 1 to 4 for scale/],
    ['scale = 0.5', query('scale=0.5'), 'scale'],
    ['quality = 0', query('quality=0'), 'quality'],
    ['quality = 80.5', query('quality=80.5'), 'whole number'],
    ['format = gif', query('format=gif'), /one of png, jpeg, webp, avif for format/],
    ['colorfix unknown', query('colorfix=sepia'), 'adain'],
    ['metadata unknown', query('metadata=all'), 'keep'],
    ['unknown parameter', query('pixx=1'), /pix, sem.*pixx/],
    ['__proto__ as parameter', query('__proto__=1'), '__proto__'],
    ['two faults at once', query('pix=9&sem=9'), /pix.*sem/],
    ['model with a path', query('model=../../etc/passwd'), 'model'],
    ['thousands of unknown parameters', query(manyNames), `And ${nameCount - 8} more.`],
  ]),
  ...answered(422, 'unknown_model', 'createUpscale', [
    ['model that no worker has', query('model=esrgan'), 'pisa-tiny'],
  ]),
  // Images
  ...answered(422, 'corrupt_image', 'createUpscale', [
    ['truncated PNG', bytes(() => truncated('png'))],
    ['truncated JPEG', bytes(() => truncated('jpeg'))],
    ['truncated WebP', bytes(() => truncated('webp'))],
    ['truncated AVIF', bytes(() => truncated('avif', 0.9))],
    ['truncated TIFF', bytes(() => truncated('tiff'))],
    ['PNG without its last byte', bytes(async () => png.subarray(0, -13))],
    ['PNG with a flipped bit', bytes(flippedBit)],
    ['scrambled JPEG', bytes(scrambledJpeg)],
    ['PNG header alone', bytes(headerOnly)],
    ['PNG of no width', bytes(zeroWidth)],
  ]),
  ...answered(413, 'too_many_pixels', 'createUpscale', [
    ['PNG that claims 60000²', bytes(() => claimsPixels(60_000, 60_000)), String(maxInputPixels)],
    ['bomb of pixels', bytes(() => pixelBomb(20_000))],
    ['output of too many pixels', bytes(() => pixelBomb(1800)), 'scale'],
    ['the same, before its pixels are missed', bytes(() => claimsPixels(1800, 1800)), 'scale'],
  ]),
  ...answered(422, 'unsupported_output', 'createUpscale', [
    [
      'WebP too long for WebP',
      async () => postImage(await photo('png', 4500, 2), '?format=webp'),
      '16383',
    ],
    [
      'JPEG too long for JPEG',
      async () => postImage(await photo('png', 17_000, 2), '?format=jpeg'),
      '65500',
    ],
  ]),
  ...answered(415, 'unsupported_media_type', 'createUpscale', [
    ['animated GIF', bytes(() => twoFrames('gif')), 'PNG'],
    ['still GIF', bytes(() => photo('gif')), 'PNG'],
    ...Object.entries(notAllowed).map(
      ([type, content]): Row => [`a file of type ${type}`, bytes(() => content), 'PNG'],
    ),
  ]),
  ...answered(422, 'animated_image', 'createUpscale', [
    ['animated WebP', bytes(() => twoFrames('webp'))],
    ['APNG', bytes(animatedPng)],
    ['TIFF of two pages', bytes(() => twoFrames('tiff'))],
  ]),
  // Bodies
  ...answered(400, 'missing_image', 'createUpscale', [
    ['no body', () => post('', {}), 'multipart/form-data'],
    ['empty body', () => postImage(Buffer.alloc(0))],
  ]),
  ...answered(415, 'unsupported_media_type', 'createUpscale', [
    ['text', () => post('', { body: 'hello' })],
    [
      'bytes of no type',
      () => post('', { body: png, headers: { 'content-type': 'application/octet-stream' } }),
      'application/octet-stream',
    ],
    ['type that is none', () => post('', { body: png, headers: { 'content-type': 'image' } })],
    ['gzip', () => postImage(png, '', { 'content-encoding': 'gzip' }), 'gzip'],
  ]),
  ...answered(413, 'upload_too_large', 'createUpscale', [
    [
      'upload above the limit',
      () => postImage(Buffer.alloc(maxUploadBytes + 1)),
      String(maxUploadBytes),
    ],
    ['chunked upload above the limit', () => postChunks(endless(maxUploadBytes + 1))],
    ['upload without end', () => postChunks(endless(1e9))],
    ['form file above the limit', () => postForm([image(Buffer.alloc(maxUploadBytes + 1))])],
    ['form above the limit', () => postForm([image(Buffer.alloc(3 * maxUploadBytes))])],
  ]),
  ...answered(422, 'invalid_parameter', 'createUpscale', [
    [
      'refused parameter with a huge upload',
      () => postImage(Buffer.alloc(50 * maxUploadBytes), '?pix=7'),
    ],
  ]),
  // URLs
  ...answered(422, 'url_not_allowed', 'createUpscale', [
    ...hostileHosts.map((host): Row => [`image at ${host}`, byUrl(`http://${host}/a.png`)]),
    ...hostileUrls
      .filter((url) => url !== '')
      .map((url): Row => [`image at ${JSON.stringify(url)}`, byUrl(url)]),
    ['image at a name of this machine', byUrl('http://localhost/a.png')],
  ]),
  ...answered(400, 'missing_image', 'createUpscale', [
    ['JSON without image_url', () => postJson('{}'), 'image_url'],
    ['image_url that is a number', () => postJson('{"image_url":1}'), 'image_url'],
    ['image_url that is empty', () => postJson('{"image_url":""}'), 'image_url'],
  ]),
  ...answered(400, 'malformed_request', 'createUpscale', [
    ['half of a JSON object', () => postJson('{"image_url":'), 'JSON'],
    ['JSON that is no object', () => postJson('["https://example.com/a.png"]'), 'image_url'],
    ['JSON null', () => postJson('null'), 'image_url'],
    ['JSON that is not UTF-8', () => postJson(Buffer.from([0x22, 0xff, 0x22])), 'JSON'],
  ]),
  ...answered(422, 'invalid_parameter', 'createUpscale', [
    [
      'parameter in the JSON',
      () => postJson('{"image_url":"https://example.com/a.png","pix":1}'),
      'query',
    ],
  ]),
  ...answered(413, 'upload_too_large', 'createUpscale', [
    ['huge JSON', () => postJson(`{"image_url":"https://example.com/${'a'.repeat(20_000)}"}`)],
  ]),
  // Forms
  ...answered(400, 'missing_image', 'createUpscale', [
    ['form without a file', () => postForm([])],
    ['empty file', () => postForm([image('')]), 'empty'],
    [
      'no file chosen in a browser',
      () =>
        postForm([{ name: 'image', fileName: '', type: 'application/octet-stream', bytes: '' }]),
    ],
    ['file under another name', () => postForm([{ ...image(), name: 'photo' }]), /"image".*photo/],
    ['file without a name', () => postForm([{ fileName: 'a.png', bytes: png }])],
    ['image as empty text', () => postForm([{ name: 'image', bytes: '' }]), 'file'],
    ['image as text', () => postForm([{ name: 'image', bytes: 'aGVsbG8=' }]), 'file'],
  ]),
  ...answered(400, 'too_many_files', 'createUpscale', [
    ['two files', () => postForm([image(), image()])],
  ]),
  ...answered(422, 'invalid_parameter', 'createUpscale', [
    ['form of 1000 parts', () => postForm(Array.from({ length: 1000 }, () => ({ bytes: '' })))],
    ['parameter as form field', () => postForm([{ name: 'pix', bytes: '1' }, image()]), 'query'],
    ['empty form field', () => postForm([{ name: 'pix', bytes: '' }, image()]), /"pix".*query/],
    ['map as text', () => postForm([image(), { name: 'pix_map', bytes: 'white' }]), 'pix_map'],
    [
      'text after fields that nobody filled',
      () =>
        postForm([...Array(5).fill({ name: 'sem_map', bytes: '' }), { name: 'pix', bytes: '1' }]),
      '"pix"',
    ],
  ]),
  ...answered(400, 'malformed_request', 'createUpscale', [
    [
      'path in the file name',
      () => postForm([{ ...image(), fileName: '../../etc/cron.d/x.png' }]),
      'path',
    ],
    ['Windows path in the file name', () => postForm([{ ...image(), fileName: 'C:\\\\x.png' }])],
    ['form without its end', () => post('', form([image()], { cut: true }))],
    [
      'form without a boundary',
      () => post('', { ...form([image()]), headers: { 'content-type': 'multipart/form-data' } }),
      'boundary',
    ],
    [
      'form with another boundary',
      () =>
        post('', {
          ...form([image()]),
          headers: { 'content-type': 'multipart/form-data; boundary=other' },
        }),
    ],
  ]),
  ...answered(415, 'unsupported_media_type', 'createUpscale', [
    ['SVG named .png in a form', () => postForm([image(notAllowed.svg)])],
  ]),
  // Headers
  ...answered(406, 'not_acceptable', 'createUpscale', [
    ['Accept: text/html', () => postImage(png, '', { accept: 'text/html' }), 'image/png'],
    ['Accept: image/gif', () => postImage(png, '', { accept: 'image/gif' })],
    [
      'Accept against format',
      () => postImage(png, '?format=png', { accept: 'image/webp' }),
      'format=png',
    ],
  ]),
  ...answered(431, 'headers_too_large', null, [
    [
      'huge header',
      raw([`${head('GET /models HTTP/1.1', 'Host: x', `X-Big: ${'a'.repeat(20_000)}`)}`]),
    ],
    ['huge path', raw([head(`GET /${'a'.repeat(20_000)} HTTP/1.1`, 'Host: x')])],
  ]),
  ...answered(400, 'malformed_request', 'listModels', [
    ['no Host', raw([head('GET /models HTTP/1.1', 'Connection: close')])],
  ]),
  ...answered(400, 'malformed_request', null, [
    ['no HTTP', raw(['\x16\x03\x01 hello\r\n\r\n'])],
    [
      'two lengths',
      raw([
        head(
          'POST /upscale HTTP/1.1',
          'Host: x',
          'Content-Length: 4',
          'Transfer-Encoding: chunked',
        ),
      ]),
    ],
  ]),
  ...answered(408, 'request_timeout', null, [
    ['head that never ends', raw(['GET /models HTTP/1.1\r\nHost: x\r\n'])],
  ]),
  ...answered(408, 'request_timeout', 'createUpscale', [
    [
      'upload that never ends',
      raw([
        head(
          'POST /upscale HTTP/1.1',
          'Host: x',
          'Content-Type: image/png',
          'Content-Length: 1000',
        ),
        'some',
      ]),
    ],
  ]),
  ...answered(400, 'malformed_request', 'createUpscale', [
    [
      'upload cut off',
      raw(
        [
          head(
            'POST /upscale HTTP/1.1',
            'Host: x',
            'Content-Type: image/png',
            'Content-Length: 1000',
          ),
          'some',
        ],
        { end: true },
      ),
    ],
  ]),
  // Routes
  ...answered(404, 'not_found', null, [['no such path', () => send(`${api.url}/upscale/x/y/z`)]]),
  ...answered(400, 'malformed_request', null, [
    ['path that does not decode', () => send(`${api.url}/upscale/%E0%A4%A`), '%E0%A4%A'],
    [
      'long path that does not decode',
      () => send(`${api.url}/${'a-'.repeat(7700)}%zz`),
      /^'\/a-.*%zz' is not a valid url component$/,
    ],
  ]),
  ...answered(405, 'method_not_allowed', null, [
    ['PUT /upscale', () => send(`${api.url}/upscale`, { method: 'PUT' }), 'POST'],
    ['POST to a job', () => send(`${api.url}/upscale/${nobody}`, { method: 'POST' })],
    ['QUERY, which Fastify asks for a body', () => send(upscale(), { method: 'QUERY' }), 'POST'],
    [
      'PUT of what is no media type',
      () => send(upscale(), { method: 'PUT', body: 'x', headers: { 'content-type': 'x' } }),
      'POST',
    ],
  ]),
  ...answered(404, 'job_not_found', 'getUpscale', [
    ['id that is none', () => send(`${api.url}/upscale/..%2f..%2fetc%2fpasswd`)],
    ['id of 15 KB', () => send(`${api.url}/upscale/${'a-'.repeat(7700)}`), 'UUID'],
    ['unknown job', () => send(`${api.url}/upscale/${nobody}`)],
  ]),
  ...answered(404, 'job_not_found', 'getUpscaleResult', [
    ['result of an unknown job', () => send(`${api.url}/upscale/${nobody}/result`)],
  ]),
  ...answered(404, 'job_not_found', 'deleteUpscale', [
    ['cancel of an unknown job', () => send(`${api.url}/upscale/${nobody}`, { method: 'DELETE' })],
  ]),
  ...answered(422, 'invalid_parameter', 'getReadiness', [
    [
      'exclusion of what is not asked for',
      () => send(`${api.url}/readyz?exclude=foo`),
      'one of devices, devices,redis for exclude',
    ],
  ]),
  ...answered(422, 'invalid_parameter', 'listModels', [
    ['parameter where none is taken', () => send(`${api.url}/models?page=2`)],
    [
      'thousands of parameters where none is taken',
      () => send(`${api.url}/models?${manyNames}`),
      new RegExp(`"n8"\\. And ${nameCount - 8} more\\.$`),
    ],
  ]),
];

/** A body that says no length, in chunks of 64 KiB. */
function endless(length: number): ReadableStream<Uint8Array> {
  let sent = 0;
  return new ReadableStream({
    pull(controller) {
      if (sent >= length) return controller.close();
      controller.enqueue(new Uint8Array(65_536));
      sent += 65_536;
    },
  });
}

describe('bad requests', () => {
  test.each(cases)('$name: $status $code', async ({ send, status, code, names, operation }) => {
    const linesBefore = api.log.length;
    const answer = await send();
    const problem = json<{ code: string; detail: string }>(answer);
    expect({ status: answer.status, code: problem.code }).toEqual({ status, code });
    expectContract(answer, operation ?? undefined);
    expect(problem.detail).toMatch(names);
    expect(answer.body.length).toBeLessThan(maxAnswerBytes);
    const lines = api.log.slice(linesBefore);
    expect(lines.filter(({ level }) => level >= warn)).toEqual([]);
    expect(JSON.stringify(lines).length).toBeLessThan(maxAnswerBytes);
  });

  test('of a method that a path does not take are told which it takes', async () => {
    for (const method of ['PUT', 'QUERY']) {
      const { headers } = await send(upscale(), { method });
      expect(headers.get('allow'), method).toBe('POST');
    }
  });

  test.each(['adjust', 'sweep'])(
    'an empty Content-Type without a body is none: %s',
    async (name) => {
      const lines = [`POST /upscale/${nobody}/${name} HTTP/1.1`, 'Host: x', 'Connection: close'];
      const answers = await Promise.all(
        [head(...lines, 'Content-Type:', 'Content-Length: 0'), head(...lines, 'Content-Type:')].map(
          async (text) => parseRaw(await rawExchange(api.port, [text])),
        ),
      );
      for (const answer of answers) expect(json(answer)).toMatchObject({ code: 'job_not_found' });
      const withBody = head(...lines, 'Content-Type:', 'Content-Length: 2');
      const refused = parseRaw(await rawExchange(api.port, [withBody, 'ab']));
      expect(json(refused)).toMatchObject({ code: 'unsupported_media_type' });
    },
  );

  test('that end their connection are answered with the id of their request, and logged with it', async () => {
    const idOf = async (...lines: string[]): Promise<string> => {
      const pieces = [head('POST /upscale HTTP/1.1', 'Host: x', ...lines), 'some'];
      const answer = parseRaw(await rawExchange(api.port, pieces));
      expect(answer.status).toBe(408);
      return answer.headers.get('x-request-id') ?? '';
    };
    const body = ['Content-Type: image/png', 'Content-Length: 1000'];
    const ids = await Promise.all([idOf('X-Request-Id: mine', ...body), idOf(...body)]);
    expect(ids[0]).toBe('mine');
    for (const id of ids) {
      const lines = api.log.filter(({ request }) => request === id);
      expect(lines.map(({ msg }) => msg)).toContain('connection refused');
    }
  });

  test('name the place of each fault', async () => {
    const answer = await postImage(png, '?pix=x&sem=3&foo~/bar=1');
    const { errors } = json<{ errors: { pointer: string }[] }>(answer);
    expect(errors.map(({ pointer }) => pointer).sort()).toEqual([
      '#/query/foo~0~1bar',
      '#/query/pix',
      '#/query/sem',
    ]);
  });

  test('leave no job, no image and a service that works', async () => {
    expect(await api.queue.counts()).toEqual({ queued: 0, processing: 0 });
    expect((await send(`${api.url}/healthz`)).status).toBe(200);
    const answer = await postImage(png);
    expectContract(answer, 'createUpscale');
    expect(answer.status).toBe(202);
    const stored = (await api.redis.client.keys('*')).filter((key) => key.includes('input/'));
    expect(stored).toHaveLength(1);
  });
});

describe('requests that look bad and are not', () => {
  test.each([
    ['a WebP that says it is a PNG', async () => postImage(await photo('webp'))],
    ['a form whose file has another type', () => postForm([{ ...image(), type: 'text/plain' }])],
    [
      'a form of Swagger UI, whose maps nobody chose',
      () => postForm([image(), { name: 'pix_map', bytes: '' }, { name: 'sem_map', bytes: '' }]),
    ],
    ['a file name of another script', () => postForm([{ ...image(), fileName: 'фото.png' }])],
    ['a coding that is none', () => postImage(png, '', { 'content-encoding': 'IDENTITY' })],
    ['an unknown expectation', () => parseRawPost('Expect: 200-maybe')],
    ['a chunked upload', () => postChunks(new Blob([new Uint8Array(png)]).stream())],
    ['an Accept of browsers', () => postImage(png, '', { accept: 'text/html,*/*;q=0.8' })],
    ['a Prefer that is malformed', () => postImage(png, '', { prefer: 'wait=soon' })],
  ])('%s', async (_name, send) => {
    const answer = await send();
    expectContract(answer, 'createUpscale');
    expect(answer.status).toBe(202);
    expect(answer.headers.get('preference-applied')).toBeNull();
  });

  const parseRawPost = async (header: string) =>
    parseRaw(
      await rawExchange(api.port, [
        head(
          'POST /upscale HTTP/1.1',
          'Host: x',
          'Connection: close',
          'Content-Type: image/png',
          `Content-Length: ${png.length}`,
          header,
        ),
        png,
      ]),
    );
});

test('a client that asks before it uploads is refused without an upload', async () => {
  const asks = (path: string, ...headers: string[]) =>
    rawExchange(api.port, [
      head(
        `POST ${path} HTTP/1.1`,
        'Host: x',
        'Expect: 100-continue',
        'Content-Type: image/png',
        ...headers,
      ),
    ]);
  const tooLong = await asks('/upscale', `Content-Length: ${maxUploadBytes + 1}`);
  expect(tooLong).toMatch(/^HTTP\/1\.1 413 /);
  const outOfRange = await asks('/upscale?pix=3', 'Content-Length: 1000');
  expect(outOfRange).toMatch(/^HTTP\/1\.1 422 /);
});

test('a client that closes its connection after a refused upload gets its answer', async () => {
  const body = Buffer.alloc(maxUploadBytes * 4);
  const received = await rawExchange(api.port, [
    head(
      'POST /upscale HTTP/1.1',
      'Host: x',
      'Connection: close',
      'Content-Type: image/png',
      `Content-Length: ${body.length}`,
    ),
    body,
  ]);
  expect(parseRaw(received).status).toBe(413);
});
