/** What one process sets aside for uploads. */
import { expect, test } from 'vitest';
import type { Client } from '../../../src/api/clients/client.ts';
import { UploadBudget, type UploadLoan } from '../../../src/api/upload-budget.ts';
import { formOverheadBytes } from '../../../src/api/upload-form.ts';
import { metrics } from '../../../src/metrics.ts';

const held = async () => (await metrics.uploadBytes.get()).values[0]?.value;
const clientOf = (name: string, concurrentJobs = 0): Client => ({
  name,
  countedAs: `key/${name}`,
  requestsPerMinute: 0,
  concurrentJobs,
});
const anyone = clientOf('anyone');
const open = { API_KEYS_FILE: '' };
const oneMegabyte = { MAX_UPLOAD_BYTES: 1024, UPLOADS_IN_FLIGHT_MEGABYTES: 1 };
/** An upload that goes on until it is told to end. */
const upload = (budget: UploadBudget, bytes: number, client = anyone) => {
  let loan: UploadLoan | undefined;
  let end = () => {};
  const ended = budget.lend(client, (given) => {
    loan = given;
    return new Promise<void>((resolve) => {
      end = resolve;
      given.hold(bytes);
    });
  });
  return {
    ended,
    hold: (more: number) => loan?.hold(more),
    look: (more: number) => loan?.look(more),
    end: () => end(),
  };
};
const refused = { code: 'too_many_uploads', retryAfterSeconds: expect.any(Number) };

test('an upload grows, holds nothing twice, and gives all back however it ends', async () => {
  const budget = new UploadBudget({ ...open, ...oneMegabyte });
  const first = upload(budget, 600_000);
  first.hold(600_000);
  first.hold(10);
  expect(await held()).toBe(600_000);
  first.hold(700_000);
  expect(await held()).toBe(700_000);
  await expect(upload(budget, 300_001).ended).rejects.toMatchObject(refused);
  expect(await held()).toBe(700_000);
  const second = upload(budget, 200_000);
  // Looking takes nothing.
  second.look(300_000);
  second.look(300_000);
  expect(await held()).toBe(900_000);
  expect(() => second.look(300_001)).toThrow(expect.objectContaining(refused));
  second.hold(300_000);
  expect(() => first.hold(700_001)).toThrow(expect.objectContaining(refused));
  second.end();
  await second.ended;
  await expect(budget.lend(anyone, () => Promise.reject(new Error('lost')))).rejects.toThrow(
    'lost',
  );
  first.end();
  await first.ended;
  expect(await held()).toBe(0);
});

test('the largest upload always fits when there is no other', async () => {
  const largest = 5_000_000 + formOverheadBytes;
  const budget = new UploadBudget({ ...open, ...oneMegabyte, MAX_UPLOAD_BYTES: 5_000_000 });
  const only = upload(budget, largest);
  await expect(upload(budget, 1).ended).rejects.toMatchObject(refused);
  only.end();
  await only.ended;
  expect(await held()).toBe(0);
});

test('where there are keys, a client has half of it, or the largest upload', async () => {
  const keys = { API_KEYS_FILE: 'keys.json' };
  const [shop, rival] = [clientOf('shop'), clientOf('rival')];
  const more = { code: 'too_much_at_once', retryAfterSeconds: expect.any(Number) };
  const budget = new UploadBudget({ ...keys, ...oneMegabyte });
  const first = upload(budget, 300_000, shop);
  const second = upload(budget, 200_000, shop);
  expect(() => second.look(200_001)).toThrow(expect.objectContaining(more));
  expect(() => first.hold(300_001)).toThrow(expect.objectContaining(more));
  const other = upload(budget, 500_000, rival);
  first.end();
  await first.ended;
  second.hold(500_000);
  for (const { end } of [second, other]) end();
  await Promise.all([second.ended, other.ended]);
  expect(await held()).toBe(0);

  const small = new UploadBudget({ ...keys, ...oneMegabyte, MAX_UPLOAD_BYTES: 5_000_000 });
  const largest = upload(small, 5_000_000 + formOverheadBytes, shop);
  await expect(upload(small, 1, shop).ended).rejects.toMatchObject(more);
  largest.end();
  await largest.ended;
});

test('a client has no more uploads under way than it may have jobs', async () => {
  const budget = new UploadBudget({ ...open, ...oneMegabyte });
  const [shop, rival] = [clientOf('shop', 2), clientOf('rival', 2)];
  const uploads = [upload(budget, 0, shop), upload(budget, 0, shop)];
  const refusal = { code: 'too_many_jobs', retryAfterSeconds: expect.any(Number) };
  await expect(upload(budget, 0, shop).ended).rejects.toMatchObject(refusal);
  uploads.push(upload(budget, 0, rival));
  uploads[0]?.end();
  await uploads[0]?.ended;
  uploads.push(upload(budget, 0, shop));
  for (const { end } of uploads) end();
  await Promise.all(uploads.map(({ ended }) => ended));
});
