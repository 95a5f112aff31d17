/** Host names to addresses, in a way that a hostile name server cannot use against this process. */
import { lookup, Resolver } from 'node:dns/promises';
import { isTransient } from './transient-faults.ts';

export interface Address {
  address: string;
  family: 4 | 6;
}

/** @returns at least one address, or rejects */
export type Resolve = (hostname: string) => Promise<Address[]>;

/**
 * The system's own way, `/etc/hosts` and search domains included: for names that the operator lists. It runs
 * in Node's small thread pool, shared with files and images, so a slow name server would hold those up: names
 * of clients do not come here.
 */
export const resolveBySystem: Resolve = async (hostname) => {
  const found = await lookup(hostname, { all: true });
  return found.map(({ address, family }) => ({ address, family: family === 6 ? 6 : 4 }));
};

/** Over the network alone (c-ares): no thread is held, no local name is found. */
export const resolveByDns: Resolve = async (hostname) => {
  const resolver = new Resolver({ timeout: 2000, tries: 2 });
  const [four, six] = await Promise.allSettled([
    resolver.resolve4(hostname),
    resolver.resolve6(hostname),
  ]);
  const addresses: Address[] = [
    ...(four.status === 'fulfilled' ? four.value : []).map((address) => ({
      address,
      family: 4 as const,
    })),
    ...(six.status === 'fulfilled' ? six.value : []).map((address) => ({
      address,
      family: 6 as const,
    })),
  ];
  if (addresses.length > 0) return addresses;
  // That there is no address of one kind says nothing while nobody answers for the other.
  const reasons = [four, six].flatMap((look) => (look.status === 'rejected' ? [look.reason] : []));
  throw reasons.find(isTransient) ?? reasons[0];
};
