import { Resolver } from 'node:dns/promises';
import { afterEach, expect, test, vi } from 'vitest';
import { resolveByDns } from '../../../src/net/resolve.ts';

afterEach(() => vi.restoreAllMocks());

const fails = (code: string) => Promise.reject(Object.assign(new Error(code), { code }));

/** A name server that says this of the addresses of either kind. */
function answering(four: () => Promise<string[]>, six: () => Promise<string[]>): void {
  vi.spyOn(Resolver.prototype, 'resolve4').mockImplementation(four as never);
  vi.spyOn(Resolver.prototype, 'resolve6').mockImplementation(six as never);
}

test('one kind of address is enough', async () => {
  answering(
    () => fails('ETIMEOUT'),
    async () => ['2001:db8::1'],
  );
  expect(await resolveByDns('photos.example')).toEqual([{ address: '2001:db8::1', family: 6 }]);
});

test.each([
  ['ENOTFOUND', 'ENOTFOUND', 'ENOTFOUND'],
  ['ENODATA', 'ETIMEOUT', 'ETIMEOUT'],
  ['ESERVFAIL', 'ENODATA', 'ESERVFAIL'],
])('of %s and %s it tells %s: the name may exist', async (four, six, told) => {
  answering(
    () => fails(four),
    () => fails(six),
  );
  await expect(resolveByDns('photos.example')).rejects.toMatchObject({ code: told });
});
