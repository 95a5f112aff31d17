/**
 * One HTTP request to a URL that a client named. The host is resolved once, every address is checked, and the
 * connection goes to the checked addresses only, so that a name that changes in between (DNS rebinding) gains
 * nothing. Redirects are not followed: who wants to, checks the next URL and asks again.
 */
import { isIP } from 'node:net';
import { buildConnector, Client, type Dispatcher } from 'undici';
import { unlessAborted } from '../waits.ts';
import { canonicalAddress, type Reach } from './address-policy.ts';
import { checkUrl, hostOf, needsTls, notPublic, portOf, type UrlRules } from './checked-url.ts';
import { type Address, type Resolve, resolveByDns, resolveBySystem } from './resolve.ts';
import { isTransient } from './transient-faults.ts';

export interface GuardedRequest {
  url: string;
  method: 'GET' | 'POST';
  headers?: Record<string, string>;
  body?: string;
  rules: UrlRules;
  /** For the whole exchange: look-up, connection, answer and what `consume` reads. */
  timeoutMs: number;
  signal?: AbortSignal;
  /** Default: DNS for names of clients, the system's resolver for names that the operator lists. */
  resolve?: Resolve;
}

/** How an exchange ends that took longer than its `timeoutMs`. */
export class RequestTimeout extends Error {
  override readonly name = 'RequestTimeout';
}

/** Tells the other side who asks. */
const userAgent = 'pisa-serve';
const maxHeaderBytes = 16_384;

/**
 * @param consume reads what it needs of the answer; the connection is closed when it settles, so that an
 *   endless body costs what was read of it
 * @throws url_not_allowed | RequestTimeout | errors of look-up and connection, of Node and undici
 */
export async function guardedRequest<T>(
  request: GuardedRequest,
  consume: (answer: Dispatcher.ResponseData) => Promise<T>,
): Promise<T> {
  const url = checkUrl(request.url, request.rules);
  const abort = new AbortController();
  const stop = (): void => abort.abort(request.signal?.reason);
  request.signal?.addEventListener('abort', stop, { once: true });
  if (request.signal?.aborted) stop();
  const timer = setTimeout(
    () => abort.abort(new RequestTimeout(`No answer within ${request.timeoutMs} ms.`)),
    request.timeoutMs,
  );
  try {
    const addresses = await unlessAborted(resolveChecked(url, request), abort.signal);
    return await exchange(url, addresses, request, abort.signal, consume);
  } catch (error) {
    // undici wraps or replaces the reason of an abort.
    throw abort.signal.aborted ? abort.signal.reason : error;
  } finally {
    clearTimeout(timer);
    request.signal?.removeEventListener('abort', stop);
  }
}

async function exchange<T>(
  url: URL,
  addresses: readonly Address[],
  { method, headers = {}, body, timeoutMs }: GuardedRequest,
  signal: AbortSignal,
  consume: (answer: Dispatcher.ResponseData) => Promise<T>,
): Promise<T> {
  // A client of its own: nothing of one exchange, not even its connection, is left for the next.
  const client = new Client(url.origin, {
    connect: connectTo(addresses, timeoutMs),
    pipelining: 0,
    maxHeaderSize: maxHeaderBytes,
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
  });
  try {
    const answer = await client.request({
      method,
      path: `${url.pathname}${url.search}`,
      headers: { 'user-agent': userAgent, ...headers },
      body: body ?? null,
      signal,
    });
    // A body that is cut off below must not become an unhandled error.
    answer.body.on('error', () => {});
    return await unlessAborted(consume(answer), signal);
  } finally {
    client.destroy().catch(() => {});
  }
}

/** Connects to `addresses` whatever the host's name says by then. */
function connectTo(addresses: readonly Address[], timeoutMs: number): buildConnector.connector {
  const allowed = new Set(addresses.map(({ address }) => canonicalAddress(address)));
  const connect = buildConnector({
    timeout: timeoutMs,
    autoSelectFamily: true,
    lookup: (_hostname, options, done) => {
      const [first] = addresses;
      if (options.all || !first) done(null, [...addresses]);
      else done(null, first.address, first.family);
    },
  });
  return (options, done) =>
    connect(options, (...outcome) => {
      const [error, socket] = outcome;
      if (error || !socket) return done(error ?? new Error('No connection.'), null);
      // Belt and braces: before the first byte of the request.
      if (allowed.has(canonicalAddress(socket.remoteAddress ?? ''))) return done(null, socket);
      socket.destroy();
      done(notPublic(), null);
    });
}

/**
 * @throws url_not_allowed when the host has no address, or any that may not be reached
 * @throws what `resolve` does where the look-up failed for now: whether there is such a host is not known
 */
async function resolveChecked(
  url: URL,
  { rules, resolve }: GuardedRequest,
): Promise<readonly Address[]> {
  const { policy, plainHttp } = rules;
  const [host, port] = [hostOf(url), portOf(url)];
  const listed = policy.listsName(host, port);
  const addresses = await addressesOf(host, resolve ?? (listed ? resolveBySystem : resolveByDns));
  const reaches = addresses.map(({ address }) => policy.reachOf(address, port));
  const allListed = listed || reaches.every((reach) => reach === 'listed');
  if (!listed && !reaches.every((reach): reach is Reach => reach !== undefined)) throw notPublic();
  if (url.protocol === 'http:' && plainHttp === 'listed' && !allListed) throw needsTls();
  return addresses;
}

async function addressesOf(host: string, resolve: Resolve): Promise<Address[]> {
  const family = isIP(host);
  if (family !== 0) return [{ address: host, family: family === 6 ? 6 : 4 }];
  let addresses: Address[];
  try {
    addresses = await resolve(host);
  } catch (error) {
    throw isTransient(error) ? error : notPublic(error);
  }
  if (addresses.length === 0) throw notPublic();
  return addresses;
}
