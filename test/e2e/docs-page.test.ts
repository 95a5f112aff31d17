/** The page of the API reference in a real browser: what a stranger does there first. */
import type { Browser, Page } from 'puppeteer-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { browserPath, launchBrowser } from '../support/browser.ts';
import { type PathProxy, startProxy } from '../support/path-proxy.ts';
import { photo, type RunningService, startService } from './service.ts';

const operation = '#operations-upscale-createUpscale';

describe.skipIf(browserPath === undefined)('the API reference', () => {
  let browser: Browser;
  let service: RunningService;
  let proxy: PathProxy;
  beforeAll(async () => {
    [browser, service] = await Promise.all([launchBrowser(), startService()]);
    proxy = await startProxy(service.url);
  });
  afterAll(async () => {
    await browser?.close();
    proxy?.stop();
    await service?.stop();
  });

  /** @returns the page below a path of a proxy, and what went wrong on it */
  const opened = async (url: string): Promise<{ page: Page; faults: string[] }> => {
    const page = await browser.newPage();
    const faults: string[] = [];
    page.on('console', (message) => {
      if (message.type() === 'error') faults.push(message.text());
    });
    page.on('pageerror', (error) => faults.push(String(error)));
    await page.goto(url);
    await page.waitForSelector(operation);
    return { page, faults };
  };

  test('the playground leads to it, also below a path of a proxy, and it shows nothing of others', async () => {
    const { page, faults } = await opened(`${proxy.url}/photos/docs`);
    expect(page.url()).toBe(`${proxy.url}/photos/docs/`);
    expect(await page.$('.topbar')).toBeNull();
    expect(await page.$eval('link[rel=icon]', (link) => link.getAttribute('type'))).toBe(
      'image/svg+xml',
    );
    const playground = await browser.newPage();
    await playground.goto(`${proxy.url}/photos/`);
    const link = await playground.$eval('nav a', (found) => (found as { href?: string }).href);
    expect(link).toBe(page.url());
    expect(faults).toEqual([]);
  });

  // Nothing else is chosen: the page fills in what the contract calls a default.
  test.each(['image/png', 'image/webp'])('"Try it out" shows a photo as %s', async (type) => {
    const { page, faults } = await opened(`${proxy.url}/photos/docs/`);
    await page.click(`${operation} .opblock-summary-control`);
    await (await page.waitForSelector(`${operation} .try-out__btn`))?.click();
    const file = await page.waitForSelector(`${operation} input[type=file]`);
    await (file as Awaited<ReturnType<typeof page.$<'input'>>>)?.uploadFile(photo('cat-128.jpg'));
    await page.select(`${operation} .responses-wrapper select.content-type`, type);
    const answer = page.waitForResponse((response) => response.request().method() === 'POST');
    await page.click(`${operation} .execute`);
    const { pathname } = new URL((await answer).url());
    expect([pathname, (await answer).status()]).toEqual(['/photos/upscale', 200]);
    expect((await answer).headers()['content-type']).toBe(type);
    const image = `${operation} .live-responses-table img`;
    await page.waitForSelector(image);
    const width = () =>
      page.$eval(image, (shown) => (shown as { naturalWidth?: number }).naturalWidth);
    await expect.poll(width).toBe(512);
    expect(faults).toEqual([]);
  });
});
