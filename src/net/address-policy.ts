/**
 * Which addresses a request that a client asked us to make may reach: public ones, and those that the operator
 * lists. The defence against server-side request forgery; `guarded-request.ts` applies it to each connection.
 */
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { AppError } from '../errors.ts';

/** What an entry of an allow-list looks like; part of a setting's fault message. */
export const allowListFormat =
  'a comma-separated list of host names, *.domains, IP addresses or CIDR blocks, each with :port or without';

interface AllowEntry {
  /** Absent: every port. */
  port?: number;
  /** Either this: lower case; a leading dot stands for `*.`. */
  name?: string;
  /** Or this: an address block. */
  block?: [ipaddr.IPv4 | ipaddr.IPv6, number];
}

/** An address that is listed by name is trusted as the operator's own resolver knows it (see `resolve.ts`). */
export type Reach = 'public' | 'listed';

const namePattern = /^(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?$/;

/** @returns undefined when `text` is none of what `allowListFormat` names */
export function parseAllowEntry(text: string): AllowEntry | undefined {
  const parts = /^(?:\[([^\]]+)\]|([^:]+)|([^[\]]*:[^[\]]*:[^[\]]*))(?::(\d{1,5}))?$/.exec(
    text.trim().toLowerCase(),
  );
  const host = parts?.[1] ?? parts?.[2] ?? parts?.[3];
  if (host === undefined) return undefined;
  const port = parts?.[4] === undefined ? {} : { port: Number(parts[4]) };
  if (port.port !== undefined && (port.port < 1 || port.port > 65_535)) return undefined;
  if (ipaddr.isValidCIDR(host)) return { ...port, block: ipaddr.parseCIDR(host) };
  if (isIP(host) !== 0) {
    const address = ipaddr.process(host);
    return { ...port, block: [address, address.kind() === 'ipv4' ? 32 : 128] };
  }
  return namePattern.test(host) ? { ...port, name: host.replace(/^\*\./, '.') } : undefined;
}

/** Ports of other protocols (mail, shells) are not for HTTP, whatever their address. */
export const isOrdinaryPort = (port: number): boolean =>
  port === 80 || port === 443 || port >= 1024;

/** IPv6 addresses that the registries hand out (RFC 4291, section 2.5.4); all else has a special use. */
const globalUnicast = ipaddr.parseCIDR('2000::/3') as [ipaddr.IPv6, number];

/** The one spelling of an address; IPv4 within IPv6 is IPv4. Empty when it is none. */
export const canonicalAddress = (address: string): string =>
  isIP(address) === 0 ? '' : ipaddr.process(address).toString();

/** @param address as text, without brackets */
function isPublicAddress(address: string): boolean {
  if (isIP(address) === 0) return false;
  const parsed = ipaddr.process(address);
  if (parsed.range() !== 'unicast') return false;
  return parsed.kind() === 'ipv4' || (parsed as ipaddr.IPv6).match(globalUnicast);
}

export class AddressPolicy {
  readonly #entries: AllowEntry[];

  /** @param allowList entries that `parseAllowEntry` takes */
  constructor(allowList: readonly string[]) {
    this.#entries = allowList.map((text) => {
      const entry = parseAllowEntry(text);
      if (!entry) throw new AppError('invalid_config', `Not ${allowListFormat}: "${text}"`);
      return entry;
    });
  }

  get listsAnyAddress(): boolean {
    return this.#entries.some(({ block }) => block !== undefined);
  }

  /** True when the operator lists this host by its name. */
  listsName(hostname: string, port: number): boolean {
    const name = hostname.toLowerCase().replace(/\.$/, '');
    return this.#entries.some(
      (entry) =>
        entry.name !== undefined &&
        (entry.port ?? port) === port &&
        (entry.name.startsWith('.') ? name.endsWith(entry.name) : name === entry.name),
    );
  }

  /** How this address may be reached; undefined when it may not. */
  reachOf(address: string, port: number): Reach | undefined {
    if (isIP(address) === 0) return undefined;
    const parsed = ipaddr.process(address);
    const listed = this.#entries.some(
      ({ block, port: only = port }) =>
        block !== undefined &&
        only === port &&
        parsed.kind() === block[0].kind() &&
        parsed.match(block),
    );
    if (listed) return 'listed';
    return isPublicAddress(address) && isOrdinaryPort(port) ? 'public' : undefined;
  }
}
