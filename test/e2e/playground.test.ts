/** The playground in a real browser, against the real service: what a stranger does on the page at `/`. */
import { execFile, execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { Browser, SerializedAXNode } from 'puppeteer-core';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import {
  browserPath,
  hasAccessibilityTree,
  keepsBusyPages,
  launchBrowser,
  noLayoutShift,
  openPlayground,
  type Playground,
} from '../support/browser.ts';
import { startProxy } from '../support/path-proxy.ts';
import { cli, photo, type RunningService, root, startService } from './service.ts';

/** Where `make playground-picture` wants the one of docs/playground.md. */
const picture = process.env.PLAYGROUND_PICTURE;
const cat = photo('cat-128.jpg');
const run = promisify(execFile);
const unreachable = 'The service cannot be reached';
const flatten = (node: SerializedAXNode | null): SerializedAXNode[] =>
  node ? [node, ...(node.children ?? []).flatMap(flatten)] : [];
const pixels = (image: Buffer) => sharp(image).removeAlpha().raw().toBuffer();

describe.skipIf(browserPath === undefined)('the playground', () => {
  let browser: Browser;
  let service: RunningService;
  let scratch: string;
  let open: Playground | undefined;
  beforeAll(async () => {
    scratch = mkdtempSync(path.join(tmpdir(), 'pisa-playground-'));
    [browser, service] = await Promise.all([launchBrowser(), startService()]);
  });
  afterEach(async () => {
    await open?.close();
    open = undefined;
  });
  afterAll(async () => {
    await browser?.close();
    await service?.stop();
    rmSync(scratch, { recursive: true, force: true });
  });

  /** @returns the page, opened for one test */
  const playground = async (url = `${service.url}/`): Promise<Playground> => {
    open = await openPlayground(browser, url);
    return open;
  };
  const fromApi = async (pix: string, sem: string): Promise<Buffer> => {
    const response = await fetch(`${service.url}/upscale?pix=${pix}&sem=${sem}`, {
      method: 'POST',
      headers: { accept: 'image/png', 'content-type': 'image/jpeg', 'cache-control': 'no-cache' },
      body: new Uint8Array(readFileSync(cat)),
    });
    expect(response.status).toBe(200);
    return Buffer.from(await response.arrayBuffer());
  };
  /** 200 is a stored result, 202 a job that runs: either will do. */
  const posts = ({ requests }: Playground) =>
    requests
      .filter((line) => line.startsWith('POST'))
      .map((line) => line.replace(/ 20[02] /, ' ').replace(/[0-9a-f]{8}-[0-9a-f-]+/, '{id}'));
  const deletes = ({ requests }: Playground) =>
    requests.filter((line) => line.startsWith('DELETE'));
  const resized = async (side: number): Promise<string> => {
    const file = path.join(scratch, `cat-${side}.png`);
    writeFileSync(file, await sharp(cat).resize(side, side).png().toBuffer());
    return file;
  };

  /** @returns what the status line has said since */
  const statuses = async ({ page }: Playground): Promise<() => Promise<unknown[]>> => {
    await page.evaluate(`{
      globalThis.said = [];
      const line = document.querySelector('#status');
      new MutationObserver(() => said.push(line.textContent)).observe(line, { childList: true });
    }`);
    return async () => (await page.evaluate('said')) as unknown[];
  };

  /** Shortens what is waited for between two tries. */
  const hurry = ({ page }: Playground) =>
    page.evaluate(`{
      const { setTimeout } = globalThis;
      globalThis.setTimeout = (callback, ms) => setTimeout(callback, ms === 2000 ? 20 : ms);
    }`);

  /** @returns the URL of a job that takes long */
  const startLarge = async (sem: string): Promise<string> => {
    const response = await fetch(`${service.url}/upscale?sem=${sem}`, {
      method: 'POST',
      headers: { 'content-type': 'image/png' },
      body: new Uint8Array(readFileSync(await resized(900))),
    });
    expect(response.status).toBe(202);
    return `${service.url}${response.headers.get('location')}`;
  };

  test('a photo is shown upscaled, with the pixels of the API', async () => {
    const { page, choose, says, shown, text, ...seen } = await playground();
    await choose(cat);
    await says('Done: pix 1, sem 1.');
    const result = await shown();
    expect(await sharp(result).metadata()).toMatchObject({ width: 512, height: 512 });
    expect((await pixels(result)).equals(await pixels(await fromApi('1', '1')))).toBe(true);
    expect(await text('#size')).toBe('128 × 128 → 512 × 512');
    expect(await text('#bytes')).toMatch(/^\d+ kB$/);
    expect(await text('#time')).toMatch(/ s$/);
    expect(await text('#model-name')).toBe('pisa-tiny');
    const file = await page.$eval('#download', (link) => link.getAttribute('download'));
    expect(file).toBe('cat-128-x4-pix1-sem1.png');
    expect(seen.requests[0]).toBe('GET 200 /');
    expect(seen.faults).toEqual([]);
    expect(seen.foreign).toEqual([]);
  });

  test('a dial moved by keyboard is an adjust, and the picture follows', async () => {
    const seen = await playground();
    await seen.choose(cat);
    await seen.says('Done: pix 1, sem 1.');
    const before = await pixels(await seen.shown());
    await seen.press('#sem', 'ArrowLeft');
    await seen.press('#sem', 'ArrowLeft');
    await seen.says('Done: pix 1, sem 0.8.');
    const after = await pixels(await seen.shown());
    expect(posts(seen)).toEqual([
      'POST /upscale?pix=1&sem=1&scale=4',
      'POST /upscale/{id}/adjust?pix=1&sem=0.8',
    ]);
    expect(after.equals(before)).toBe(false);
    // Latents are kept in float16: at most one level off.
    const fresh = await pixels(await fromApi('1', '0.8'));
    expect(after.every((value, at) => Math.abs(value - (fresh[at] ?? 0)) <= 1)).toBe(true);
    // The photo and the newest result; those before are revoked.
    expect(await seen.liveUrls()).toBe(2);
    expect(await seen.layoutShift()).toBe(noLayoutShift);
    expect(seen.faults).toEqual([]);
  });

  test('a photo that the service no longer keeps is sent again', async () => {
    const seen = await playground();
    await seen.choose(cat);
    await seen.says('Done: pix 1, sem 1.');
    const result = seen.requests.find((line) => line.endsWith('/result')) ?? '';
    const [, id = ''] = /upscale\/([^/]+)\/result/.exec(result) ?? [];
    expect((await fetch(`${service.url}/upscale/${id}`, { method: 'DELETE' })).status).toBe(204);
    await seen.press('#pix', 'ArrowRight');
    await seen.says('Done: pix 1.1, sem 1.');
    expect(posts(seen)).toEqual([
      'POST /upscale?pix=1&sem=1&scale=4',
      'POST 404 /upscale/{id}/adjust?pix=1.1&sem=1',
      'POST /upscale?pix=1.1&sem=1&scale=4',
    ]);
  });

  test('the newest position of the dials counts; what is outdated is canceled', async () => {
    const seen = await playground();
    await seen.choose(await resized(256));
    await seen.says('Upscaling');
    // The first job goes on: what it keeps is what this position is made from.
    await seen.press('#sem', 'ArrowLeft');
    await seen.says('Done: pix 1, sem 0.9.');
    expect(deletes(seen)).toEqual([]);
    // Others take the device, so that what follows has to wait.
    const others = await Promise.all(['0.1', '0.2', '0.3', '0.4'].map(startLarge));
    const said = await statuses(seen);
    await seen.press('#sem', 'ArrowLeft');
    await expect.poll(() => posts(seen).length, { timeout: 10_000 }).toBe(3);
    await seen.press('#sem', 'ArrowLeft');
    await expect.poll(() => posts(seen).length, { timeout: 10_000 }).toBe(4);
    await Promise.all(others.map((url) => fetch(url, { method: 'DELETE' })));
    await seen.says('Done: pix 1, sem 0.7.');
    expect(await said()).toContainEqual(
      expect.stringMatching(/^Waiting in the queue behind \d …$/),
    );
    expect(deletes(seen)).toEqual([expect.stringMatching(/^DELETE 200 /)]);
    expect(posts(seen)).toEqual([
      'POST /upscale?pix=1&sem=1&scale=4',
      'POST /upscale/{id}/adjust?pix=1&sem=0.9',
      'POST /upscale/{id}/adjust?pix=1&sem=0.8',
      'POST /upscale/{id}/adjust?pix=1&sem=0.7',
    ]);
    expect(seen.faults).toEqual([]);
  });

  test('a photo that was chosen before the script had come is not lost', async () => {
    const opened = await playground();
    const { page } = opened;
    let release = () => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    await page.setRequestInterception(true);
    page.on('request', async (request) => {
      if (request.url().endsWith('/main.js')) await released;
      await request.continue();
    });
    const reloaded = page.reload();
    await page.waitForFunction(`document.readyState === 'interactive'`);
    await opened.choose(cat);
    release();
    await reloaded;
    await opened.says('Done: pix 1, sem 1.');
  });

  test('another photo takes the place of one that runs', async () => {
    const seen = await playground();
    await seen.choose(await resized(700));
    await seen.says('Upscaling');
    const said = await statuses(seen);
    await seen.choose(cat);
    await seen.says('Done: pix 1, sem 1.');
    // At once: what was said of the photo before no longer holds.
    expect((await said())[0]).toBe('Opening the photo …');
    expect(deletes(seen)).toEqual([expect.stringMatching(/^DELETE 200 /)]);
    expect(await sharp(await seen.shown()).metadata()).toMatchObject({ width: 512 });
    expect(seen.faults).toEqual([]);
  });

  test('Cancel ends a job, its button starts it again, and so does another photo', async () => {
    const seen = await playground();
    await seen.choose(await resized(640));
    await seen.says('Upscaling');
    await seen.page.click('#cancel');
    await seen.says('Canceled.');
    await seen.page.waitForSelector('#cancel[aria-disabled=false]::-p-text(Start again)');
    // The browser may tell of what went over the wire later than the page shows it.
    await expect.poll(() => deletes(seen)).toEqual([expect.stringMatching(/^DELETE 200 /)]);
    await seen.page.click('#cancel');
    await seen.page.waitForSelector('#cancel::-p-text(Cancel)');
    await seen.says('Upscaling');
    await expect.poll(() => posts(seen)).toHaveLength(2);
    await seen.choose(cat);
    await seen.says('Done: pix 1, sem 1.');
    await seen.page.waitForSelector('#cancel[aria-disabled=true]::-p-text(Cancel)');
    expect(await seen.layoutShift()).toBe(noLayoutShift);
  });

  test('another scale is another job, also in the command and the name of the file', async () => {
    const seen = await playground();
    await seen.choose(cat);
    await seen.says('Done: pix 1, sem 1.');
    await seen.page.select('#scale', '2');
    await seen.page.waitForSelector('#size::-p-text(256 × 256)');
    expect(await sharp(await seen.shown()).metadata()).toMatchObject({ width: 256, height: 256 });
    expect(posts(seen)).toEqual([
      'POST /upscale?pix=1&sem=1&scale=4',
      'POST /upscale?pix=1&sem=1&scale=2',
    ]);
    expect(await seen.text('#curl')).toContain('scale=2');
    const file = await seen.page.$eval('#download', (link) => link.getAttribute('download'));
    expect(file).toBe('cat-128-x2-pix1-sem1.png');
  });

  test('a photo too large for its scale gets the largest that fits; the next one what was chosen', async () => {
    const small = await startService({ env: { MAX_OUTPUT_PIXELS: '90000' } });
    try {
      const seen = await playground(`${small.url}/`);
      const scale = () =>
        seen.page.$eval('#scale', (select) => (select as { value: string }).value);
      const choices = () =>
        seen.page.$$eval('#scale option:enabled', (options) =>
          options.map(({ textContent }) => textContent),
        );
      await seen.choose(cat);
      await seen.says('Done: pix 1, sem 1.');
      expect(await seen.text('#size')).toBe('128 × 128 → 300 × 300');
      expect(posts(seen)).toEqual([
        'POST 413 /upscale?pix=1&sem=1&scale=4',
        'POST /upscale?pix=1&sem=1&scale=2.34',
      ]);
      expect(await choices()).toEqual(['×2.34 (largest)', '×2', '×1 (same size)']);
      expect(await seen.text('#curl')).toContain('scale=2.34');
      // A TIFF, which the page cannot measure either.
      const tiff = path.join(scratch, 'cat.tiff');
      writeFileSync(tiff, await sharp(cat).resize(150, 150).tiff().toBuffer());
      await seen.choose(tiff);
      await seen.page.waitForSelector('#size::-p-text(150 × 150 → 300 × 300)');
      expect(await scale()).toBe('2');
      await seen.choose(await resized(75));
      await seen.page.waitForSelector('#size::-p-text(75 × 75 → 300 × 300)');
      expect(await choices()).toEqual(['×4', '×3', '×2', '×1 (same size)']);
      // Not even the photo as it is.
      await seen.choose(await resized(310));
      expect((await seen.problem()).detail).toMatch(/Send a smaller image/);
    } finally {
      await small.stop();
    }
  });

  test('what is no photo is refused in the words of the API', async () => {
    const seen = await playground();
    const file = path.join(scratch, 'notes.txt');
    writeFileSync(file, 'Not a photo.');
    await seen.choose(file);
    const body = new FormData();
    body.append('image', new Blob(['Not a photo.'], { type: 'text/plain' }), 'notes.txt');
    const answer = await fetch(`${service.url}/upscale`, { method: 'POST', body });
    expect(answer.status).toBe(415);
    expect(await answer.json()).toMatchObject(await seen.problem());
    // Again, it would be refused again.
    expect(await seen.page.$('#again:not([hidden])')).toBeNull();
    const chooser = seen.page.waitForFileChooser();
    await seen.page.click('#another');
    await (await chooser).cancel();
    expect(await seen.page.$('#drop[hidden]')).toBeNull();
    expect(await seen.layoutShift()).toBe(noLayoutShift);
    // A browser may have a line of its own about the status; there is none of ours.
    expect(seen.faults.filter((fault) => !/status of 415/.test(fault))).toEqual([]);
  });

  test.each(['drop', 'paste'] as const)('a photo comes in by %s', async (way) => {
    const { page, says, text } = await playground();
    await page.evaluate(`{
      const bytes = Uint8Array.from(atob('${readFileSync(cat, 'base64')}'), (char) => char.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], 'cat.jpg', { type: 'image/jpeg' }));
      const by = { drop: ['dataTransfer', DragEvent], paste: ['clipboardData', ClipboardEvent] };
      const [field, Kind] = by['${way}'];
      const event = new Kind('${way}', { bubbles: true, cancelable: true });
      // Not by the constructor: Firefox leaves the files out of a ClipboardEvent that a script makes.
      Object.defineProperty(event, field, { value: data });
      document.body.dispatchEvent(event);
    }`);
    await says('Done: pix 1, sem 1.');
    expect(await text('#curl')).toContain('image=@cat.jpg');
  });

  test('the divider moves by mouse, touch and keyboard; the zoom by keyboard', async () => {
    const { page, choose, says, press } = await playground();
    await page.setViewport({ width: 390, height: 844, hasTouch: true });
    await choose(cat);
    await says('Done: pix 1, sem 1.');
    const cut = async () =>
      Number.parseFloat(
        String(
          await page.evaluate("document.querySelector('#picture').style.getPropertyValue('--cut')"),
        ),
      );
    const middle = await cut();
    const spoken = () =>
      page.$eval('#split', (slider) => slider.getAttribute('aria-valuetext') ?? '');
    expect(await spoken()).toBe('50 % before');
    await press('#split', 'ArrowRight');
    const byKeyboard = await cut();
    expect(byKeyboard).toBeGreaterThan(middle);
    expect(await spoken()).toMatch(/^5[1-9] % before$/);
    const grip = async () => {
      const box = await (await page.$('#divider'))?.boundingBox();
      if (!box) throw new Error('no divider is shown');
      return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    };
    const { x, y } = await grip();
    await page.mouse.move(x, y);
    await page.mouse.down();
    await page.mouse.move(x - 60, y);
    await page.mouse.up();
    const byMouse = await cut();
    expect(byMouse).toBeCloseTo(byKeyboard - 60, -1);
    const touch = await page.touchscreen.touchStart(x - 60, y);
    await touch.move(x + 40, y);
    await touch.end();
    expect(await cut()).toBeCloseTo(byMouse + 100, -1);
    await page.focus('#actual');
    await page.keyboard.press('Enter');
    const width = () => page.$eval('#picture', (picture) => picture.getBoundingClientRect().width);
    expect(await width()).toBe(512);
    // A pixel of the screen for each, not one of the page.
    await page.setViewport({ width: 390, height: 844, hasTouch: true, deviceScaleFactor: 2 });
    // The page hears of it with the next frame.
    await page.screenshot();
    await expect.poll(width).toBe(256);
  });

  test('the curl command that is shown gives the same pixels, whatever the photo is called', async () => {
    const { page, choose, says, press, shown, text } = await playground();
    const name = `a "cat", it's; x=1.jpg`;
    copyFileSync(cat, path.join(scratch, name));
    await choose(path.join(scratch, name));
    await says('Done: pix 1, sem 1.');
    await press('#pix', 'ArrowLeft');
    await says('Done: pix 0.9, sem 1.');
    await page.click('#copy');
    await page.waitForSelector('#copy::-p-text(Copied)');
    await run('bash', ['-c', await text('#curl')], { cwd: scratch });
    const made = await pixels(
      readFileSync(path.join(scratch, `a "cat", it's; x=1-x4-pix0.9-sem1.png`)),
    );
    const onPage = await pixels(await shown());
    expect(made.every((value, at) => Math.abs(value - (onPage[at] ?? 0)) <= 1)).toBe(true);
  });

  test.runIf(hasAccessibilityTree)('each control has a name', async () => {
    const { page, choose, says } = await playground();
    await choose(cat);
    await says('Done: pix 1, sem 1.');
    const controls = flatten(await page.accessibility.snapshot()).filter(({ role }) =>
      ['button', 'combobox', 'link', 'slider', 'image', 'progressbar'].includes(role),
    );
    expect(controls.length).toBeGreaterThan(10);
    expect(controls.filter(({ name }) => !name)).toEqual([]);
  });

  test('what the button says of the copy ends with its focus', async () => {
    const { page } = await playground();
    // As over plain HTTP from another machine.
    await page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })");
    // By a script, which does not give it the focus.
    await page.$eval('#copy', (button) => (button as unknown as { click(): void }).click());
    await page.waitForSelector('#copy:focus::-p-text(Selected: copy it)');
    await page.focus('#fit');
    await page.waitForSelector('#copy::-p-text(Copy)');
    expect(await page.$eval('#copy', (button) => button.textContent)).toBe('Copy');
  });

  test('Tab reaches the photo, the dials and the divider', async () => {
    const { page, choose, says } = await playground();
    await choose(cat);
    await says('Done: pix 1, sem 1.');
    const reached = new Set<string>();
    for (let tabs = 0; tabs < 15; tabs += 1) {
      await page.keyboard.press('Tab');
      reached.add(String(await page.evaluate('document.activeElement.id')));
    }
    expect([...reached]).toEqual(
      expect.arrayContaining(['file', 'split', 'fit', 'actual', 'pix', 'sem', 'download', 'copy']),
    );
  });

  test('of several models one can be chosen', async () => {
    const bundles = path.join(root, 'test/fixtures/bundles');
    const several = await startService({ env: { MODELS_DIR: bundles, MODEL: 'blur' } });
    try {
      const seen = await playground(`${several.url}/`);
      await seen.page.waitForSelector('#model:not([hidden])');
      await seen.choose(cat);
      await seen.says('Done: pix 1, sem 1.');
      await seen.page.select('#model', 'identity');
      await seen.page.waitForFunction(
        "document.querySelector('#model-name').textContent === 'identity'",
      );
      expect(posts(seen)).toEqual([
        'POST /upscale?pix=1&sem=1&scale=4&model=blur',
        'POST /upscale?pix=1&sem=1&scale=4&model=identity',
      ]);
      expect(await seen.layoutShift()).toBe(noLayoutShift);
      expect(seen.faults).toEqual([]);
      // The models are asked for again after a fault, and the choice stays.
      await seen.page.setOfflineMode(true);
      await seen.choose(await resized(130));
      await seen.problem();
      await seen.page.setOfflineMode(false);
      const models = seen.page.waitForResponse((response) => response.url().endsWith('/models'));
      await seen.page.click('#again');
      await (await models).text();
      await seen.says('Done: pix 1, sem 1.');
      expect(await seen.page.$eval('#model', (select) => (select as { value: string }).value)).toBe(
        'identity',
      );
      expect(posts(seen).at(-1)).toMatch(/model=identity$/);
    } finally {
      await several.stop();
    }
  });

  test.runIf(picture)('a picture of it', async () => {
    const { page, choose, says } = await playground();
    await page.setViewport({ width: 1200, height: 840 });
    await choose(cat);
    await says('Done: pix 1, sem 1.');
    // As `make serve` has it, not the free port of this test.
    await page.evaluate(
      "{ const curl = document.querySelector('#curl'); curl.textContent = curl.textContent.replace(/:\\d+/, ':8080'); }",
    );
    const screen = await page.screenshot({ type: 'png' });
    await sharp(screen).jpeg({ quality: 85, mozjpeg: true }).toFile(String(picture));
  });

  test('it works below a path of a proxy', async () => {
    const proxy = await startProxy(service.url);
    const seen = await playground(`${proxy.url}/photos/`);
    await seen.choose(cat);
    await seen.says('Done: pix 1, sem 1.');
    await seen.press('#sem', 'ArrowLeft');
    await seen.says('Done: pix 1, sem 0.9.');
    expect(await seen.text('#curl')).toContain(`${proxy.url}/photos/upscale?`);
    expect(seen.requests.filter((line) => !line.includes(' /photos/'))).toEqual([]);
    expect(seen.faults).toEqual([]);
    proxy.stop();
    // And says so when nothing answers any more.
    await seen.press('#sem', 'ArrowLeft');
    expect((await seen.problem()).title).toBe(unreachable);
  });

  test('a stream of events that breaks off is opened again', async () => {
    let cuts = 0;
    const proxy = await startProxy(service.url, (url, response) => {
      if (url.endsWith('/events') && cuts++ === 0) response.once('data', () => response.destroy());
    });
    const seen = await playground(`${proxy.url}/photos/`);
    await seen.choose(await resized(200));
    await seen.says(`${unreachable}. Trying again …`);
    await seen.says('Done: pix 1, sem 1.');
    expect(cuts).toBe(2);
    expect(posts(seen)).toHaveLength(1);
    proxy.stop();
  });

  test('a proxy that answers for a service that is being restarted is asked again', async () => {
    const pages = [502, 503, 504];
    let wasCut = false;
    const proxy = await startProxy(
      service.url,
      (url, response) => {
        if (wasCut || !url.endsWith('/events')) return;
        wasCut = true;
        response.once('data', () => response.destroy());
      },
      (url) => (wasCut && url.endsWith('/events') ? pages.shift() : undefined),
    );
    const seen = await playground(`${proxy.url}/photos/`);
    await hurry(seen);
    await seen.choose(await resized(220));
    await seen.says('Done: pix 1, sem 1.');
    expect(pages).toEqual([]);
    expect(posts(seen)).toHaveLength(1);
    proxy.stop();
  });

  test('a stream of events that falls silent is given up and opened again', async () => {
    let streams = 0;
    let isGivenUp = false;
    const proxy = await startProxy(service.url, (url, response, answer) => {
      if (!url.endsWith('/events') || streams++ > 0) return;
      response.once('data', () => response.unpipe().removeAllListeners('close').resume());
      answer.once('close', () => {
        isGivenUp = true;
      });
    });
    const seen = await playground(`${proxy.url}/photos/`);
    // The silence that is waited for takes minutes.
    await seen.page.evaluate(`{
      const { setTimeout } = globalThis;
      globalThis.setTimeout = (callback, ms) => setTimeout(callback, ms > 60_000 ? ms / 100 : ms);
    }`);
    await seen.choose(await resized(190));
    await seen.says(`${unreachable}. Trying again …`);
    await seen.says('Done: pix 1, sem 1.');
    expect(streams).toBeGreaterThan(1);
    // One that is left open holds up the next in Firefox.
    await expect.poll(() => isGivenUp).toBe(true);
    expect(posts(seen)).toHaveLength(1);
    proxy.stop();
  });

  test('of a service that has gone it says so, tries for a while, and again when told to', async () => {
    let isGone = false;
    let wasCut = false;
    const proxy = await startProxy(service.url, (url, response) => {
      if (isGone) response.destroy();
      else if (url.endsWith('/events') && !wasCut) {
        wasCut = true;
        response.once('data', () => {
          isGone = true;
          response.destroy();
        });
      }
    });
    const seen = await playground(`${proxy.url}/photos/`);
    const said = await statuses(seen);
    // Of the page; the browser itself may try one twice.
    let tries = 0;
    seen.page.on('request', (request) => {
      if (request.url().endsWith('/events')) tries += 1;
    });
    await seen.choose(await resized(300));
    await seen.page.waitForSelector('#problem', { visible: true, timeout: 60_000 });
    expect((await seen.problem()).title).toBe(unreachable);
    expect(tries).toBe(16);
    // Once, not at each try: it is read out.
    expect((await said()).slice(-2)).toEqual([`${unreachable}. Trying again …`, '']);
    isGone = false;
    await seen.page.click('#again');
    await seen.says('Done: pix 1, sem 1.');
    // The job had gone on.
    expect(posts(seen)).toHaveLength(1);
    proxy.stop();
  });

  test('a job that the service has lost meanwhile is asked for again', async () => {
    let isGone = false;
    let job = '';
    const proxy = await startProxy(service.url, (url, response) => {
      if (isGone) response.destroy();
      else if (url.endsWith('/events') && job === '') {
        job = url.replace('/photos', '').replace('/events', '');
        response.once('data', () => {
          isGone = true;
          response.destroy();
        });
      }
    });
    const seen = await playground(`${proxy.url}/photos/`);
    await hurry(seen);
    await seen.choose(await resized(210));
    await seen.problem();
    const status = async () =>
      ((await (await fetch(`${service.url}${job}`)).json()) as { status: string }).status;
    await expect.poll(status, { timeout: 60_000 }).toBe('succeeded');
    expect((await fetch(`${service.url}${job}`, { method: 'DELETE' })).status).toBe(204);
    isGone = false;
    await seen.page.click('#again');
    await seen.says('Done: pix 1, sem 1.');
    expect(posts(seen)).toHaveLength(2);
    proxy.stop();
  });

  test.each<[string, number, (seen: Playground) => Promise<void>, string]>([
    ['another position', 230, (seen) => seen.press('#sem', 'ArrowLeft'), 'Done: pix 1, sem 0.9.'],
    ['another photo', 240, (seen) => seen.choose(cat), 'Done: pix 1, sem 1.'],
  ])('a job that was lost sight of is canceled for %s', async (_name, side, change, said) => {
    let isGone = false;
    let job = '';
    const proxy = await startProxy(service.url, (url, response) => {
      if (isGone) response.destroy();
      else if (url.endsWith('/events') && job === '') {
        job = url.replace('/events', '');
        response.once('data', () => {
          isGone = true;
          response.destroy();
        });
      }
    });
    const seen = await playground(`${proxy.url}/photos/`);
    await hurry(seen);
    await seen.choose(await resized(side));
    await seen.problem();
    isGone = false;
    await change(seen);
    await seen.says(said);
    expect(deletes(seen).map((line) => line.replace(/^DELETE \d+ /, ''))).toEqual([job]);
    expect(posts(seen)).toHaveLength(2);
    proxy.stop();
  });

  describe('a result that breaks off', () => {
    /** In the midst of the body: the head has come, and the first bytes. */
    const cutLater = (response: IncomingMessage): void => {
      response.once('data', () => {
        response.unpipe();
        setTimeout(() => response.destroy(), 300);
      });
    };

    test('is fetched again', async () => {
      let downloads = 0;
      const proxy = await startProxy(service.url, (url, response) => {
        if (url.endsWith('/result') && downloads++ === 0) cutLater(response);
      });
      const seen = await playground(`${proxy.url}/photos/`);
      const said = await statuses(seen);
      await seen.choose(cat);
      await seen.says('Done: pix 1, sem 1.');
      const receiving = 'Receiving the picture …';
      expect((await said()).slice(-4)).toEqual([
        receiving,
        `${unreachable}. Trying again …`,
        receiving,
        'Done: pix 1, sem 1.',
      ]);
      expect(downloads).toBe(2);
      expect(posts(seen)).toEqual(['POST /photos/upscale?pix=1&sem=1&scale=4']);
      const onPage = await pixels(await seen.shown());
      expect(onPage.equals(await pixels(await fromApi('1', '1')))).toBe(true);
      proxy.stop();
    });

    test('each time is a problem, and no fault of the page', async () => {
      let downloads = 0;
      let isBroken = true;
      const proxy = await startProxy(service.url, (url, response) => {
        if (!url.endsWith('/result')) return;
        downloads += 1;
        if (isBroken) cutLater(response);
      });
      const seen = await playground(`${proxy.url}/photos/`);
      await seen.choose(cat);
      await seen.page.waitForSelector('#problem', { visible: true, timeout: 60_000 });
      expect((await seen.problem()).title).toBe(unreachable);
      expect(downloads).toBe(4);
      isBroken = false;
      await seen.page.click('#again');
      await seen.says('Done: pix 1, sem 1.');
      // It was there all the time.
      expect(posts(seen)).toHaveLength(1);
      await seen.press('#sem', 'ArrowLeft');
      await seen.says('Done: pix 1, sem 0.9.');
      expect(posts(seen)[1]).toMatch(/adjust.pix=1&sem=0.9$/);
      proxy.stop();
    });
  });

  describe('back from the cache of pages', () => {
    /** Fails where the page was loaded anew. */
    const awayAndBack = async ({ page }: Playground): Promise<void> => {
      await page.evaluate('globalThis.isOldPage = true');
      await page.goto(`${service.url}/models`);
      // Not page.goBack(): in Firefox that waits for a page to load, and none does.
      await page.evaluate('history.back()');
      await page.waitForSelector('#status');
      expect(await page.evaluate('globalThis.isOldPage')).toBe(true);
    };

    test('what has ended is not done again', async () => {
      const seen = await playground();
      await seen.choose(cat);
      await seen.says('Done: pix 1, sem 1.');
      await awayAndBack(seen);
      expect(await seen.text('#status')).toBe('Done: pix 1, sem 1.');
      await seen.press('#sem', 'ArrowLeft');
      await seen.says('Done: pix 1, sem 0.9.');
      expect(posts(seen)).toEqual([
        'POST /upscale?pix=1&sem=1&scale=4',
        'POST /upscale/{id}/adjust?pix=1&sem=0.9',
      ]);
    });

    test('what was canceled is not done again', async () => {
      const seen = await playground();
      await seen.choose(await resized(660));
      await seen.says('Upscaling');
      await seen.page.click('#cancel');
      await seen.says('Canceled.');
      await seen.page.waitForSelector('#cancel::-p-text(Start again)');
      await awayAndBack(seen);
      expect(await seen.text('#status')).toBe('Canceled.');
      await seen.choose(cat);
      await seen.says('Done: pix 1, sem 1.');
      expect(posts(seen)).toHaveLength(2);
    });

    test.runIf(keepsBusyPages)('what was under way begins again', async () => {
      const seen = await playground();
      await seen.choose(await resized(280));
      await seen.says('Upscaling');
      await awayAndBack(seen);
      await seen.says('Done: pix 1, sem 1.');
      expect(posts(seen)).toHaveLength(2);
    });
  });

  test('who leaves the page leaves no job behind', async () => {
    const { page, choose, says, requests } = await playground();
    await choose(await resized(720));
    await says('Upscaling');
    const [, job = ''] = requests.join('\n').match(/(\/upscale\/[^/]+)\/events/) ?? [];
    await page.goto('about:blank');
    const status = async () =>
      ((await (await fetch(`${service.url}${job}`)).json()) as { status: string }).status;
    await expect.poll(status, { timeout: 10_000 }).toBe('canceled');
  });

  test('a violation of the policy would be noticed', async () => {
    const { page, faults } = await playground();
    await page.evaluate(
      "document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.2/x.png' }))",
    );
    await expect.poll(() => faults).toEqual([expect.stringMatching(/Content.Security.Policy/)]);
  });

  describe('where keys are asked for', () => {
    let guarded: RunningService;
    let key: string;
    beforeAll(async () => {
      const file = path.join(scratch, 'keys.json');
      const limits = ['--requests-per-minute', '12'];
      const made = [cli, 'keys', 'create', 'page', '--file', file, ...limits];
      key = execFileSync(process.execPath, made, { encoding: 'utf8', stdio: 'pipe' }).trim();
      guarded = await startService({ env: { API_KEYS_FILE: file } });
    });
    afterAll(async () => {
      await guarded?.stop();
    });

    test('the page asks for one, works with it, keeps it in the session, and waits when told to', async () => {
      const seen = await playground(`${guarded.url}/`);
      const { page, text } = seen;
      await page.waitForSelector('#key-dialog[open]');
      await page.type('#key', 'wrong');
      await page.keyboard.press('Enter');
      await page.waitForSelector('#key-problem::-p-text(not)');
      await page.waitForSelector('#key-dialog[open]');
      await page.type('#key', key);
      await page.keyboard.press('Enter');
      await page.waitForSelector('#key-dialog:not([open])');
      await seen.choose(cat);
      await seen.says('Done: pix 1, sem 1.');
      expect(
        await page.evaluate('[localStorage.length, document.cookie, sessionStorage.length]'),
      ).toEqual([0, '', 1]);
      expect(await text('#curl')).toContain('-H "Authorization: Bearer $KEY"');
      expect(await text('#curl')).not.toContain(key);
      // Twelve in a minute, two of them at once: the third has to wait.
      await seen.press('#sem', 'ArrowLeft');
      await seen.says('Done: pix 1, sem 0.9.');
      await seen.press('#sem', 'ArrowLeft');
      await seen.says('Trying again in');
      await seen.says('Done: pix 1, sem 0.8.');
      expect(posts(seen).filter((line) => line.startsWith('POST 429')).length).toBeGreaterThan(0);
      expect(seen.faults.filter((fault) => !/status of (401|429)/.test(fault))).toEqual([]);
    });

    test('without one, it says why nothing is done', async () => {
      const { page, choose, problem } = await playground(`${guarded.url}/`);
      await page.waitForSelector('#key-dialog[open]');
      await page.keyboard.press('Escape');
      expect((await problem()).title).toBe('The request carries no valid API key');
      await choose(cat);
      await page.waitForSelector('#key-dialog[open]');
    });
  });
});
