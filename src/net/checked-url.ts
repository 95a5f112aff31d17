/** A URL from a client, checked as far as that goes without a look-up. Its address is checked when connecting. */
import { isIP } from 'node:net';
import { AppError } from '../errors.ts';
import { type AddressPolicy, isOrdinaryPort } from './address-policy.ts';

export const maxUrlLength = 2048;

export interface UrlRules {
  policy: AddressPolicy;
  /** Plain HTTP to any host, or only to hosts that the operator lists. */
  plainHttp: 'anywhere' | 'listed';
}

export const portOf = (url: URL): number =>
  Number(url.port || (url.protocol === 'https:' ? 443 : 80));

/** The host without the brackets of an IPv6 address. */
export const hostOf = (url: URL): string => url.hostname.replace(/^\[(.*)\]$/, '$1');

/**
 * `new URL` brings every notation of an IPv4 address (decimal, octal, hexadecimal, short, full-width digits)
 * into the dotted one, so that there is one to check.
 * @throws url_not_allowed, with a reason that tells nothing of the network behind us
 */
export function checkUrl(text: string, { policy, plainHttp }: UrlRules): URL {
  if (text.length > maxUrlLength) throw refused(`A URL may have ${maxUrlLength} characters.`);
  if (!URL.canParse(text)) throw refused('This is not an absolute URL.');
  const url = new URL(text);
  if (url.protocol !== 'https:' && url.protocol !== 'http:') {
    throw refused(`Expected an https:// URL but received ${url.protocol.slice(0, 32)}`);
  }
  if (url.username !== '' || url.password !== '') {
    throw refused('A URL with a user name or password is not taken.');
  }
  const [host, port] = [hostOf(url), portOf(url)];
  const named = policy.listsName(host, port);
  const reach = isIP(host) === 0 ? undefined : policy.reachOf(host, port);
  // A name may still turn out to be at a listed address: then connecting decides.
  const mayBeListed = named || reach === 'listed' || (isIP(host) === 0 && policy.listsAnyAddress);
  if (!mayBeListed && !isOrdinaryPort(port)) throw notForHttp(port);
  if (isIP(host) !== 0 && !named && !reach) throw notPublic();
  if (url.protocol === 'http:' && plainHttp === 'listed' && !mayBeListed) throw needsTls();
  return url;
}

export const refused = (detail: string): AppError => new AppError('url_not_allowed', detail);

/** One answer for a name that does not exist and one that is not public: no look into the names behind us. */
export const notPublic = (cause?: unknown): AppError =>
  new AppError(
    'url_not_allowed',
    'The host of this URL was not found or is not at a public address, or its port is not one for HTTP.',
    { cause },
  );

const notForHttp = (port: number): AppError =>
  refused(`Expected port 80, 443 or one from 1024 on in the URL but received ${port}.`);

export const needsTls = (): AppError =>
  refused('Expected an https:// URL: plain HTTP is for hosts that the operator lists.');
