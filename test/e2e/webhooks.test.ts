/** Receivers of webhooks, that of docs/webhooks.md run as printed, against the built service. */
import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { Webhook } from 'standardwebhooks';
import { expect, test } from 'vitest';
import { freePort } from '../support/processes.ts';
import { answers, startReceiver } from '../support/receiver.ts';
import { cli, photo, root, startService } from './service.ts';

const run = promisify(execFile);

test('the receiver of the docs verifies what the service sends, and refuses what it does not', async () => {
  const page = readFileSync(path.join(root, 'docs/webhooks.md'), 'utf8');
  const [, code = ''] = /^```js\n([\s\S]*?)^```/m.exec(page) ?? [];
  // Where the packages are found.
  const folder = path.join(root, 'node_modules/.cache/pisa-serve-tests/receiver');
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, 'receiver.mjs'), code);
  const port = await freePort();
  const secret = `whsec_${randomBytes(32).toString('base64')}`;
  const receiver = spawn(process.execPath, [path.join(folder, 'receiver.mjs')], {
    env: { ...process.env, PORT: String(port), WEBHOOK_SECRET: secret },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let printed = '';
  receiver.stdout.on('data', (chunk: Buffer) => {
    printed += chunk.toString();
  });
  const service = await startService({
    env: {
      WEBHOOK_SECRET: secret,
      WEBHOOK_ALLOWED_HOSTS: `127.0.0.1:${port}`,
      PUBLIC_URL: 'https://upscale.example',
    },
  });
  try {
    const hook = `http://127.0.0.1:${port}/hooks/upscale`;
    const forged = await fetch(hook, { method: 'POST', body: '{}' });
    expect(forged.status).toBe(401);
    const answer = await fetch(`${service.url}/upscale?webhook=${encodeURIComponent(hook)}`, {
      method: 'POST',
      headers: { 'content-type': 'image/jpeg' },
      body: new Uint8Array(readFileSync(photo('cat-128.jpg'))),
    });
    expect(answer.status).toBe(202);
    const { id } = (await answer.json()) as { id: string };
    await expect
      .poll(() => printed, { timeout: 60_000 })
      .toBe(`upscale.succeeded ${id} https://upscale.example/upscale/${id}/result\n`);
    await expect
      .poll(
        async () => {
          const job = await fetch(`${service.url}/upscale/${id}`);
          return ((await job.json()) as { webhook: { status: string } }).webhook.status;
        },
        { timeout: 30_000 },
      )
      .toBe('delivered');
    // The secret is for signing: it is in no log.
    expect(service.stderr()).not.toContain(secret.slice('whsec_'.length));
    expect(service.stderr()).toContain('webhook delivered');
  } finally {
    receiver.kill('SIGKILL');
    await service.stop();
    rmSync(folder, { recursive: true, force: true });
  }
});

test("with API keys a receiver verifies the events of its own client, and takes nobody else's", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'pisa-webhook-clients-'));
  const secret = `whsec_${randomBytes(32).toString('base64')}`;
  const settings = {
    API_KEYS_FILE: path.join(folder, 'keys.json'),
    WEBHOOK_SECRET: secret,
    WEBHOOK_ALLOWED_HOSTS: '127.0.0.1',
  };
  const env = { ...process.env, ...settings };
  const printed = async (...command: string[]): Promise<string> =>
    (await run(process.execPath, [cli, 'keys', ...command], { env })).stdout.trim();
  const receiver = await startReceiver(answers(204));
  try {
    const keyOf = (name: string) => printed('create', name, '--file', settings.API_KEYS_FILE);
    const keys = { shop: await keyOf('shop'), rival: await keyOf('rival') };
    const shop = new Webhook(await printed('webhook-secret', 'shop'));
    const rival = new Webhook(await printed('webhook-secret', 'rival'));
    await expect(printed('webhook-secret', 'shpo')).rejects.toThrow(
      'has no client shpo. It has shop, rival.',
    );
    const service = await startService({ env: settings });
    try {
      for (const client of ['shop', 'rival'] as const) {
        const hook = encodeURIComponent(`${receiver.url}/${client}`);
        const answer = await fetch(`${service.url}/upscale?webhook=${hook}`, {
          method: 'POST',
          headers: { 'content-type': 'image/jpeg', authorization: `Bearer ${keys[client]}` },
          body: new Uint8Array(readFileSync(photo('cat-128.jpg'))),
        });
        expect(answer.status).toBe(202);
      }
      await expect.poll(() => receiver.received.length, { timeout: 60_000 }).toBe(2);
    } finally {
      await service.stop();
    }
    for (const { path: client, body, headers } of receiver.received) {
      const [own, others] = client === '/shop' ? [shop, rival] : [rival, shop];
      const sent = headers as Record<string, string>;
      expect(own.verify(body, sent)).toMatchObject({ type: 'upscale.succeeded' });
      expect(() => others.verify(body, sent)).toThrow();
      expect(() => new Webhook(secret).verify(body, sent)).toThrow();
    }
  } finally {
    await receiver.stop();
    rmSync(folder, { recursive: true, force: true });
  }
});
