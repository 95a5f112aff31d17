/** A real browser with the playground open: Debian's Chromium or Firefox, driven by puppeteer-core, which brings none. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import puppeteer, { type Browser, type LaunchOptions, type Page } from 'puppeteer-core';

/** By the program that `scripts/setup.sh browser` and `firefox` look for. */
const launchOptions: Record<string, LaunchOptions> = {
  chromium: {
    browser: 'chrome',
    // Its sandbox refuses to run as root; nothing but our own page is opened.
    args: process.getuid?.() === 0 ? ['--no-sandbox'] : [],
    // Else no page is kept for Back.
    ignoreDefaultArgs: ['--disable-back-forward-cache'],
  },
  'firefox-esr': { browser: 'firefox' },
};

/** `make test-browsers` sets the other one. */
const program = process.env.PLAYGROUND_BROWSER ?? 'chromium';
const options = launchOptions[program];
if (options === undefined) {
  const known = Object.keys(launchOptions).join(' or ');
  throw new Error(`Expected ${known} for PLAYGROUND_BROWSER but received ${program}.`);
}

const isChromium = options.browser === 'chrome';
/** WebDriver BiDi, by which Firefox is driven, has none to ask for. */
export const hasAccessibilityTree = isChromium;
/** Firefox keeps no page for Back that has requests under way. */
export const keepsBusyPages = isChromium;
/** What `layoutShift` is where nothing has moved: Firefox does not measure it. */
export const noLayoutShift = isChromium ? 0 : undefined;

/** Absent: there is none, and the tests that need it are skipped. */
export const browserPath = (process.env.PATH ?? '')
  .split(path.delimiter)
  .map((folder) => path.join(folder, program))
  .find((file) => existsSync(file));

if (browserPath === undefined) {
  process.stderr.write(
    `Skipped: the tests of the playground need a browser. Install ${program} (Debian: sudo apt install ${program}).\n`,
  );
}

export const launchBrowser = (): Promise<Browser> =>
  puppeteer.launch({ ...options, executablePath: browserPath ?? program });

/** These run in the page, whose types the tests do not know. */
const instruments = `
  globalThis.liveUrls = new Set();
  const { createObjectURL, revokeObjectURL } = URL;
  URL.createObjectURL = (blob) => {
    const url = createObjectURL.call(URL, blob);
    liveUrls.add(url);
    return url;
  };
  URL.revokeObjectURL = (url) => {
    liveUrls.delete(url);
    revokeObjectURL.call(URL, url);
  };
  if (PerformanceObserver.supportedEntryTypes.includes('layout-shift')) globalThis.layoutShift = 0;
  new PerformanceObserver((list) => {
    for (const { value } of list.getEntries()) layoutShift += value;
  }).observe({ type: 'layout-shift', buffered: true });
`;
const drawResult = `(() => {
  const image = document.querySelector('#after');
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  canvas.getContext('2d').drawImage(image, 0, 0);
  return canvas.toDataURL('image/png');
})()`;

export interface Playground {
  readonly page: Page;
  /** `POST 202 /upscale?pix=1&sem=1`, of everything that was asked for, data and blobs left out. */
  readonly requests: string[];
  /** Requests to anywhere else. */
  readonly foreign: string[];
  /** What the console says is wrong, violations of the Content-Security-Policy and uncaught errors included. */
  readonly faults: string[];
  choose(file: string): Promise<void>;
  /** Resolves when the status line says so. */
  says(text: string): Promise<void>;
  /** The problem that is shown. */
  problem(): Promise<{ title: string; detail: string }>;
  text(selector: string): Promise<string>;
  press(selector: string, key: 'ArrowLeft' | 'ArrowRight'): Promise<void>;
  /** The result as it is shown, as a PNG. */
  shown(): Promise<Buffer>;
  /** Object URLs that have not been revoked. */
  liveUrls(): Promise<number>;
  /** https://web.dev/articles/cls; `noLayoutShift` when nothing has moved. */
  layoutShift(): Promise<unknown>;
  close(): Promise<void>;
}

/** In a context of its own: no session, cache or clipboard of other tests. */
export async function openPlayground(browser: Browser, url: string): Promise<Playground> {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const { origin } = new URL(url);
  const requests: string[] = [];
  const foreign: string[] = [];
  const faults: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warn') faults.push(message.text());
  });
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('request', (request) => {
    if (!/^(data|blob):/.test(request.url()) && new URL(request.url()).origin !== origin) {
      foreign.push(request.url());
    }
  });
  page.on('response', (response) => {
    if (!response.url().startsWith(origin)) return;
    const path = response.url().slice(origin.length);
    requests.push(`${response.request().method()} ${response.status()} ${path}`);
  });
  await page.evaluateOnNewDocument(instruments);
  await page.goto(url);
  const text = (selector: string) => page.$eval(selector, (found) => found.textContent ?? '');
  return {
    page,
    requests,
    foreign,
    faults,
    text,
    choose: async (file) => {
      const input = await page.waitForSelector('input#file');
      await input?.uploadFile(file);
    },
    says: async (wanted) => {
      await page.waitForSelector(`#status::-p-text(${wanted})`, { timeout: 60_000 });
    },
    problem: async () => {
      await page.waitForSelector('#problem', { visible: true });
      return { title: await text('#problem-title'), detail: await text('#problem-detail') };
    },
    press: async (selector, key) => {
      await page.focus(selector);
      await page.keyboard.press(key);
    },
    shown: async () => {
      const dataUrl = String(await page.evaluate(drawResult));
      return Buffer.from(dataUrl.slice(dataUrl.indexOf(',') + 1), 'base64');
    },
    liveUrls: async () => Number(await page.evaluate('liveUrls.size')),
    layoutShift: () => page.evaluate('globalThis.layoutShift'),
    close: () => context.close(),
  };
}
