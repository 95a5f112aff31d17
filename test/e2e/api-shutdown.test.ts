/** SIGTERM to an API in the middle of what takes long: each kind of connection ends in its own time. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import sharp from 'sharp';
import { afterEach, expect, test } from 'vitest';
import { type Deployment, startDeployment, toyModelSettings } from '../support/deployment.ts';
import { openStream } from '../support/sse.ts';
import { root } from './service.ts';

let deployment: Deployment;
const sockets: Socket[] = [];
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  expect(await deployment.stop()).toEqual([]);
});

/** Noise, whose result no format makes much smaller: it is far more than the buffers of a connection hold. */
const noise = (): Promise<Buffer> =>
  sharp(randomBytes(600 * 600 * 3), { raw: { width: 600, height: 600, channels: 3 } })
    .png()
    .toBuffer();

function open(): Socket {
  const socket = connect(Number(new URL(deployment.url).port), '127.0.0.1');
  socket.on('error', () => {});
  sockets.push(socket);
  return socket;
}

/** @returns its id */
async function submit(image: Buffer): Promise<string> {
  const answer = await fetch(`${deployment.url}/upscale`, {
    method: 'POST',
    headers: { 'content-type': 'image/png' },
    body: new Uint8Array(image),
  });
  expect(answer.status).toBe(202);
  return ((await answer.json()) as { id: string }).id;
}

test('a slow download ends whole, a stream of events and an unused connection before it', async () => {
  const env = { ...toyModelSettings(root), SHUTDOWN_GRACE_SECONDS: '60' };
  deployment = await startDeployment({ root, env });
  await deployment.ready();
  const { api, workers } = deployment.processes;
  const image = await noise();
  const id = await submit(image);
  await (await openStream(`${deployment.url}/upscale/${id}/events`)).ended;
  const result = Buffer.from(
    await (await fetch(`${deployment.url}/upscale/${id}/result`)).arrayBuffer(),
  );
  expect(result.length).toBeGreaterThan(8_000_000);
  // So that the next job waits.
  await workers[0]?.end('SIGTERM');
  const events = await openStream(`${deployment.url}/upscale/${await submit(image)}/events`);

  const [slow, unused] = [open(), open()];
  slow.write(`GET /upscale/${id}/result HTTP/1.1\r\nHost: x\r\n\r\n`);
  await once(slow, 'readable');
  const ended = api.end('SIGTERM');
  await events.ended;
  await once(unused, 'close');
  const chunks: Buffer[] = [];
  slow.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(slow, 'close');
  const received = Buffer.concat(chunks);
  expect(received.subarray(-result.length).equals(result)).toBe(true);
  await ended;
  expect(api.exitCode).toBe(0);
});
