/**
 * A bundle behind a URL: a folder with manifest.json and its files. A download that breaks off is taken up where it
 * ended, in this run and in the next. What arrives is judged by its sha256, so nothing here has to be trusted.
 */
import { createWriteStream } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import { isIP } from 'node:net';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, type Dispatcher, request } from 'undici';
import { AppError } from '../../errors.ts';
import type { BundleFile } from '../../pipeline/manifest.ts';
import type { BundleSource } from './source.ts';

/** A manifest is some kB; one with all stages of a large model some 100 kB. */
const maxManifestBytes = 4_000_000;
const maxRedirects = 5;
/** Tries of a file in which nothing arrives. */
const maxTries = 4;
const retryMs = 500;
/** Silence after which a connection counts as broken. */
const silenceMs = 30_000;

/** A fault that may pass: of the network, or of a server that is busy. */
class Transient extends Error {}

export class UrlSource implements BundleSource {
  readonly resumes = true;
  readonly where: string;
  readonly #plainHttp: boolean;
  readonly #agent = new Agent({
    connect: { timeout: silenceMs },
    headersTimeout: silenceMs,
    bodyTimeout: silenceMs,
  });

  /**
   * @param plainHttp also to other machines
   * @throws invalid_parameter
   */
  constructor(text: string, plainHttp: boolean) {
    if (!URL.canParse(text)) throw refused(text, 'it is no URL');
    const url = new URL(text);
    if (url.username !== '' || url.password !== '') {
      throw refused(url.host, 'a user name or password in a URL is not taken');
    }
    if (url.search !== '' || url.hash !== '') {
      throw refused(
        url.host + url.pathname,
        'it must be a folder, so that manifest.json and the names of files can be put behind it: no ? and no #',
      );
    }
    this.#plainHttp = plainHttp;
    this.where = url.href.replace(/\/*$/, '');
    this.#check(url);
  }

  async manifest(): Promise<string> {
    const url = `${this.where}/manifest.json`;
    return this.#retried(url, async () => {
      const { body } = await this.#get(url, {});
      const chunks: Buffer[] = [];
      let received = 0;
      for await (const chunk of body as AsyncIterable<Buffer>) {
        received += chunk.length;
        if (received > maxManifestBytes) {
          throw new AppError(
            'invalid_bundle',
            `${url} has more than ${maxManifestBytes} bytes, which no manifest has. Name the folder of a bundle.`,
          );
        }
        chunks.push(chunk);
      }
      return Buffer.concat(chunks).toString('utf8');
    });
  }

  async fetch(entry: BundleFile, target: string): Promise<void> {
    await this.#retried(
      `${this.where}/${entry.file}`,
      () => this.#download(entry, target),
      () => sizeOf(target),
    );
  }

  /** Tries again as long as something arrives, and some times more. */
  async #retried<T>(
    url: string,
    attempt: () => Promise<T>,
    progress: () => Promise<number> = async () => 0,
  ): Promise<T> {
    for (let fruitless = 1; ; fruitless += 1) {
      const before = await progress();
      try {
        return await attempt();
      } catch (error) {
        if (error instanceof AppError || isOfDisk(error)) throw error;
        if (!isTransient(error)) throw failed(url, error, 'Check the URL, and try it with curl.');
        const after = await progress();
        if (after > before) fruitless = 0;
        if (fruitless >= maxTries) {
          throw failed(
            url,
            error,
            'What has arrived is kept: run the same command again to go on.',
          );
        }
        await sleep(retryMs * 2 ** fruitless);
      }
    }
  }

  async #download({ file, bytes }: BundleFile, target: string): Promise<void> {
    const there = await sizeOf(target);
    if (there === bytes) return;
    if (there > bytes) await rm(target);
    const from = there > bytes ? 0 : there;
    const url = `${this.where}/${file}`;
    const answer = await this.#get(url, from > 0 ? { range: `bytes=${from}-` } : {});
    // A server that knows no ranges sends all of it again.
    const start = answer.statusCode === 206 ? from : 0;
    const range = String(answer.headers['content-range'] ?? '');
    if (answer.statusCode === 206 && !range.startsWith(`bytes ${from}-`)) {
      answer.body.destroy();
      await rm(target, { force: true });
      throw new Transient(`another range than was asked for: ${range}`);
    }
    let received = start;
    const counted = new Transform({
      transform: (chunk: Buffer, _encoding, done) => {
        received += chunk.length;
        if (received > bytes) done(tooLong(url, bytes));
        else done(null, chunk);
      },
    });
    await pipeline(
      answer.body,
      counted,
      createWriteStream(target, { flags: start > 0 ? 'a' : 'w' }),
    );
    if (received < bytes) throw new Transient(`it ended after ${received} of ${bytes} bytes`);
  }

  /** Follows redirects. @returns an answer of status 200 or 206 */
  async #get(text: string, headers: Record<string, string>): Promise<Dispatcher.ResponseData> {
    let url = new URL(text);
    for (let redirects = 0; redirects <= maxRedirects; redirects += 1) {
      this.#check(url);
      const answer = await request(url, {
        headers: { 'accept-encoding': 'identity', 'user-agent': 'pisa-serve', ...headers },
        dispatcher: this.#agent,
      });
      // A body that is cut off below must not become an unhandled error.
      answer.body.on('error', () => {});
      const { statusCode } = answer;
      if (statusCode === 200 || statusCode === 206) return answer;
      answer.body.destroy();
      const { location } = answer.headers;
      if (statusCode < 300 || statusCode >= 400 || typeof location !== 'string') {
        throw refusal(text, statusCode);
      }
      if (!URL.canParse(location, url.href)) throw refused(text, 'a redirect leads to no URL');
      url = new URL(location, url);
    }
    throw refused(text, `it redirects more than ${maxRedirects} times`);
  }

  /** @throws invalid_parameter */
  #check(url: URL): void {
    if (url.protocol === 'https:') return;
    if (url.protocol !== 'http:') throw refused(url.href, 'expected an https:// URL');
    if (this.#plainHttp || isLoopback(url.hostname)) return;
    throw refused(
      url.origin,
      'plain HTTP is for this machine. Use https://, or give --plain-http if you trust the network',
    );
  }
}

function isLoopback(hostname: string): boolean {
  if (hostname === 'localhost' || hostname === '[::1]') return true;
  return isIP(hostname) === 4 && hostname.startsWith('127.');
}

async function sizeOf(file: string): Promise<number> {
  return (await stat(file).catch(() => undefined))?.size ?? 0;
}

const refused = (what: string, why: string): AppError =>
  new AppError('invalid_parameter', `${what} is not taken: ${why}.`);

const tooLong = (url: string, bytes: number): AppError =>
  new AppError(
    'invalid_bundle',
    `${url} has more than the ${bytes} bytes that the manifest says. Ask whoever offers the bundle to export it again.`,
  );

function refusal(url: string, status: number): Error {
  if (status === 408 || status === 416 || status === 429 || status >= 500) {
    return new Transient(`HTTP ${status}`);
  }
  const advice =
    status === 404 || status === 410
      ? 'Name a folder that has manifest.json and all files that it names'
      : 'Name a URL that can be read without signing in';
  return new AppError('bundle_not_added', `${url} answers HTTP ${status}. ${advice}.`);
}

function isTransient(error: unknown): boolean {
  if (error instanceof Transient) return true;
  const { code = '', syscall } = error as NodeJS.ErrnoException;
  return code.startsWith('UND_ERR') || networkCodes.has(code) || syscall === 'getaddrinfo';
}

const networkCodes = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ERR_STREAM_PREMATURE_CLOSE',
]);

/** Of the file that is written, not of the connection. */
function isOfDisk(error: unknown): boolean {
  const { code = '', syscall = '' } = error as NodeJS.ErrnoException;
  return !networkCodes.has(code) && ['open', 'write', 'unlink', 'close'].includes(syscall);
}

function failed(url: string, cause: unknown, advice: string): AppError {
  const { code, message } = cause as NodeJS.ErrnoException;
  const reason = message === '' ? (code ?? 'no reason given') : message;
  return new AppError('bundle_not_added', `${url} could not be fetched (${reason}). ${advice}`, {
    cause,
  });
}
