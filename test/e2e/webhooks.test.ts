/** The receiver that docs/webhooks.md shows, run as printed, against the built service. */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { freePort } from '../support/processes.ts';
import { photo, root, startService } from './service.ts';

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
