/** What one process sets aside for uploads. */
import { expect, test } from 'vitest';
import { UploadBudget, type UploadLoan } from '../../../src/api/upload-budget.ts';
import { formOverheadBytes } from '../../../src/api/upload-form.ts';
import { metrics } from '../../../src/metrics.ts';

const held = async () => (await metrics.uploadBytes.get()).values[0]?.value;
/** An upload that goes on until it is told to end. */
const upload = (budget: UploadBudget, bytes: number) => {
  let loan: UploadLoan | undefined;
  let end = () => {};
  const ended = budget.lend((given) => {
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
  const budget = new UploadBudget({ MAX_UPLOAD_BYTES: 1024, UPLOADS_IN_FLIGHT_MEGABYTES: 1 });
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
  await expect(budget.lend(() => Promise.reject(new Error('lost')))).rejects.toThrow('lost');
  first.end();
  await first.ended;
  expect(await held()).toBe(0);
});

test('the largest upload always fits when there is no other', async () => {
  const largest = 5_000_000 + formOverheadBytes;
  const budget = new UploadBudget({ MAX_UPLOAD_BYTES: 5_000_000, UPLOADS_IN_FLIGHT_MEGABYTES: 1 });
  const only = upload(budget, largest);
  await expect(upload(budget, 1).ended).rejects.toMatchObject(refused);
  only.end();
  await only.ended;
  expect(await held()).toBe(0);
});
