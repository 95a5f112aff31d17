/** The sample of the playground, in a real browser: for who has no photo at hand. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { Browser, HTTPRequest } from 'puppeteer-core';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import {
  browserPath,
  launchBrowser,
  noLayoutShift,
  openPlayground,
  type Playground,
} from '../support/browser.ts';
import { photo, type RunningService, root, startService } from './service.ts';

const run = promisify(execFile);
const pixels = (image: Buffer) => sharp(image).removeAlpha().raw().toBuffer();

test('it is one of the sample photos, whose source and licence their list names', () => {
  expect(
    readFileSync(path.join(root, 'web/sample.jpg')).equals(
      readFileSync(photo('coffee-150x100.jpg')),
    ),
  ).toBe(true);
});

describe.skipIf(browserPath === undefined)('the sample of the playground', () => {
  let browser: Browser;
  let service: RunningService;
  let scratch: string;
  let seen: Playground;
  beforeAll(async () => {
    scratch = mkdtempSync(path.join(tmpdir(), 'pisa-playground-'));
    [browser, service] = await Promise.all([launchBrowser(), startService()]);
  });
  afterEach(() => seen.close());
  afterAll(async () => {
    await browser?.close();
    await service?.stop();
    rmSync(scratch, { recursive: true, force: true });
  });

  /** @returns the request that a click of the button makes; it ends when the test says so */
  async function clickAndHold(): Promise<HTTPRequest> {
    await seen.page.setRequestInterception(true);
    const held = new Promise<HTTPRequest>((resolve) => {
      seen.page.on('request', (request) => {
        if (request.url().endsWith('/sample.jpg')) resolve(request);
        else void request.continue();
      });
    });
    await seen.page.click('#sample');
    return held;
  }

  test('is upscaled by one key, and the curl command that is shown fetches it too', async () => {
    seen = await openPlayground(browser, `${service.url}/`);
    const { page, says, shown, text, liveUrls, layoutShift } = seen;
    await page.focus('#sample');
    await page.keyboard.press('Enter');
    await says('Done: pix 1, sem 1.');
    expect(await text('#size')).toBe('150 × 100 → 600 × 400');
    expect(await page.evaluate('document.activeElement.id')).toBe('file');
    expect(await liveUrls()).toBe(2);
    expect(await layoutShift()).toBe(noLayoutShift);
    expect(seen.faults).toEqual([]);
    await run('bash', ['-c', await text('#curl')], { cwd: scratch });
    const made = readFileSync(path.join(scratch, 'sample-x4-pix1-sem1.png'));
    expect((await pixels(made)).equals(await pixels(await shown()))).toBe(true);
  });

  test('gives way to a photo that comes while it is on its way', async () => {
    seen = await openPlayground(browser, `${service.url}/`);
    const { page, choose, says, text } = seen;
    const request = await clickAndHold();
    await choose(photo('cat-128.jpg'));
    await says('Done: pix 1, sem 1.');
    await request.continue();
    await page.waitForNetworkIdle();
    expect(seen.requests.at(-1)).toBe('GET 200 /playground/sample.jpg');
    expect(await text('#curl')).toContain('image=@cat-128.jpg');
    expect(await text('#size')).toBe('128 × 128 → 512 × 512');
  });

  test('of a service that is out of reach is a problem that says so', async () => {
    seen = await openPlayground(browser, `${service.url}/`);
    await (await clickAndHold()).abort('connectionrefused');
    expect((await seen.problem()).title).toBe('The service cannot be reached');
  });
});
