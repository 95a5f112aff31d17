/** Images by URL, through the whole API: what is fetched is an upload like any other, judged by its bytes. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { JobObject } from '../../src/api/job-object.ts';
import type { Problem } from '../../src/errors.ts';
import { inputKey } from '../../src/jobs/job.ts';
import { startApi, type TestApi } from '../support/api.ts';
import { expectContract } from '../support/contract.ts';
import { notAllowed, photo, pixelBomb, truncated } from '../support/hostile-images.ts';
import { type Answer, json, send } from '../support/http.ts';
import {
  answers,
  answersForEver,
  type Behaviour,
  type Receiver,
  saysNothing,
  startReceiver,
} from '../support/receiver.ts';

const maxUploadBytes = 200_000;
let api: TestApi;
let host: Receiver;
let behaviour: Behaviour;
let inside: Receiver;

beforeAll(async () => {
  host = await startReceiver((request, response) => behaviour(request, response));
  inside = await startReceiver(answers(200, {}, await photo('png')));
  api = await startApi({
    MAX_UPLOAD_BYTES: String(maxUploadBytes),
    MAX_INPUT_PIXELS: '1000000',
    IMAGE_URL_ALLOWED_HOSTS: `127.0.0.1:${host.port}, localhost:${host.port}`,
    IMAGE_URL_TIMEOUT_SECONDS: '1',
    IMAGE_URLS_IN_FLIGHT: '2',
  });
});
afterAll(async () => {
  await api.stop();
  await Promise.all([host.stop(), inside.stop()]);
});
afterEach(() => {
  expect(inside.received).toEqual([]);
});

const postUrl = async (image_url: string, query = '', signal?: AbortSignal): Promise<Answer> => {
  const answer = await send(`${api.url}/upscale${query}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json; charset=utf-8' },
    body: JSON.stringify({ image_url }),
    ...(signal ? { signal } : {}),
  });
  expectContract(answer, 'createUpscale');
  return answer;
};
const codeOf = (answer: Answer) => ({ status: answer.status, code: json<Problem>(answer).code });

test('the image becomes the input of a job, whatever type its host names', async () => {
  const jpeg = await photo('jpeg', 50, 40);
  behaviour = answers(200, { 'content-type': 'text/html' }, jpeg);
  for (const name of ['127.0.0.1', 'localhost']) {
    const answer = await postUrl(`http://${name}:${host.port}/cat?size=1`, '?scale=2');
    expect(answer.status).toBe(202);
    const job = json<JobObject>(answer);
    expect(job.input).toEqual({
      width: 50,
      height: 40,
      bytes: jpeg.length,
      content_type: 'image/jpeg',
    });
    expect(job.params.scale).toBe(2);
    expect(await api.store.get(inputKey(job.id))).toEqual(jpeg);
  }
});

test('redirects to listed hosts are followed, others refused', async () => {
  const png = await photo('png');
  behaviour = ({ path }, response) =>
    path === '/start'
      ? void response.writeHead(302, { location: '/end' }).end()
      : void response.writeHead(200).end(png);
  expect((await postUrl(`${host.url}/start`)).status).toBe(202);
  for (const location of [inside.url, 'http://169.254.169.254/latest/meta-data/']) {
    behaviour = answers(302, { location });
    const answer = await postUrl(host.url);
    expect(codeOf(answer)).toEqual({ status: 422, code: 'url_not_allowed' });
  }
});

test('what is there is judged like an upload', async () => {
  const served: [Behaviour, number, string][] = [
    [answers(200, { 'content-type': 'image/png' }, notAllowed.svg), 415, 'unsupported_media_type'],
    [answers(200, { 'content-type': 'image/png' }, 'no image'), 415, 'unsupported_media_type'],
    [answers(200, {}, await truncated('png')), 422, 'corrupt_image'],
    [answers(200, {}, pixelBomb(2000)), 413, 'too_many_pixels'],
    [answers(200, {}, Buffer.alloc(maxUploadBytes + 1)), 413, 'upload_too_large'],
    [answersForEver(), 413, 'upload_too_large'],
    [answersForEver(200, { 'content-length': '10737418240' }), 413, 'upload_too_large'],
    [answers(200), 400, 'missing_image'],
    [answers(404), 422, 'image_url_failed'],
    [saysNothing, 424, 'image_url_unavailable'],
  ];
  for (const [serves, status, code] of served) {
    behaviour = serves;
    expect(codeOf(await postUrl(host.url))).toEqual({ status, code });
  }
  expect((await send(`${api.url}/healthz`)).status).toBe(200);
  await expect.poll(() => host.openConnections()).toBe(0);
});

test('a host that is away for a moment is one to try again, at the time that it asks for', async () => {
  behaviour = answers(503, { 'retry-after': '120' });
  const busy = await postUrl(host.url);
  expect(codeOf(busy)).toEqual({ status: 424, code: 'image_url_unavailable' });
  expect(busy.headers.get('retry-after')).toBe('120');
  behaviour = (_request, response) => response.socket?.resetAndDestroy();
  const away = await postUrl(host.url);
  expect(codeOf(away)).toEqual({ status: 424, code: 'image_url_unavailable' });
  expect(away.headers.get('retry-after')).toBe('5');
  behaviour = answers(404);
  expect((await postUrl(host.url)).headers.has('retry-after')).toBe(false);
});

test('a service that is not told otherwise fetches from public hosts only', async () => {
  const answer = await postUrl(inside.url);
  expect(codeOf(answer)).toEqual({ status: 422, code: 'url_not_allowed' });
  const log = api.log.map((line) => JSON.stringify(line)).join('\n');
  expect(log).not.toContain(`:${host.port}/start`);
});

test('only so many are fetched at once: beyond that 503, until one has ended or run out of time', async () => {
  behaviour = saysNothing;
  const before = host.received.length;
  const slow = [postUrl(`${host.url}/1`), postUrl(`${host.url}/2`)];
  await expect.poll(() => host.received.length).toBe(before + 2);
  const third = await postUrl(`${host.url}/3`);
  expect(codeOf(third)).toEqual({ status: 503, code: 'too_many_fetches' });
  expect(Number(third.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(host.received.length).toBe(before + 2);
  for (const answer of slow) {
    expect(codeOf(await answer)).toEqual({ status: 424, code: 'image_url_unavailable' });
  }
  behaviour = answers(200, {}, await photo('png'));
  expect((await postUrl(`${host.url}/4`)).status).toBe(202);
});

test('a client that goes away ends the fetch', async () => {
  behaviour = saysNothing;
  const before = host.received.length;
  const client = new AbortController();
  const posted = fetch(`${api.url}/upscale`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ image_url: host.url }),
    signal: client.signal,
  });
  await expect.poll(() => host.received.length).toBe(before + 1);
  client.abort();
  await expect(posted).rejects.toThrow();
  await expect.poll(() => host.openConnections()).toBe(0);
});
