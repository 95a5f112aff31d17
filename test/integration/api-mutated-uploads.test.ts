/** Sound uploads with random damage, from a fixed seed: each is taken or refused, none is a fault of ours. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startApi, type TestApi } from '../support/api.ts';
import { expectContract } from '../support/contract.ts';
import { damage, generator } from '../support/damage.ts';
import { photo } from '../support/hostile-images.ts';
import { form, parseRaw, rawExchange } from '../support/http.ts';

const rounds = 30;
const atOnce = 10;
const warn = 40;
let api: TestApi;

beforeAll(async () => {
  api = await startApi({ REQUEST_TIMEOUT_SECONDS: '5', MAX_UPLOAD_BYTES: '5000' });
});
afterAll(() => api.stop());

test(`${rounds * atOnce} damaged uploads get an answer of the contract, and nothing is logged above info`, async () => {
  const random = generator(1);
  const formats = ['png', 'jpeg', 'webp', 'avif', 'tiff'] as const;
  const images = await Promise.all(formats.map((format) => photo(format, 16, 12)));
  const statuses = new Map<number, number>();
  const upload = async (): Promise<void> => {
    const image = images[random(images.length)] ?? Buffer.alloc(0);
    const isForm = random(2) === 0;
    let body = isForm ? form([{ name: 'image', fileName: 'a', bytes: image }]).body : image;
    for (let times = random(4); times >= 0; times -= 1) body = damage(body, random);
    const type = isForm ? 'multipart/form-data; boundary=pisa-test-boundary' : 'image/png';
    const head = `POST /upscale HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: ${type}\r\nContent-Length: ${body.length}\r\n\r\n`;
    const answer = parseRaw(await rawExchange(api.port, [head, body]));
    expectContract(answer, 'createUpscale');
    expect(answer.status, answer.body.toString()).toBeLessThan(500);
    statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
  };
  for (let round = 0; round < rounds; round += 1) {
    await Promise.all(Array.from({ length: atOnce }, upload));
  }
  // The damage is neither always fatal nor always harmless, so both ways were tried.
  expect(statuses.get(202)).toBeGreaterThan(0);
  expect(statuses.get(400)).toBeGreaterThan(0);
  expect(statuses.get(422)).toBeGreaterThan(0);
  expect(api.log.filter(({ level }) => level >= warn)).toEqual([]);
});
