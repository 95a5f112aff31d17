/**
 * Clients of every kind that the service has, each from its first request to the deletion of all that it made, and each
 * checking what it is answered.
 */
import { randomUUID } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import { Webhook } from 'standardwebhooks';
import { damage, generator } from '../test/support/damage.ts';
import { root } from './service.ts';

/** As many of each kind in a deck of clients. */
const deck = {
  'image as the body, polled': 4,
  'form, waits for the job': 4,
  'image by URL, waits for the image': 3,
  'image as the body, follows the events': 4,
  'image as the body, told by webhook': 3,
  'other dials of a photo (adjust)': 3,
  'sheet of dials (sweep)': 1,
  'heat map': 1,
  'cancels at once': 2,
  'repeats with an idempotency key': 2,
  'sends what was made before': 2,
  'comes after the result has expired': 1,
  'sends a damaged image': 2,
  'sends what is not allowed': 2,
} as const;
export type Kind = keyof typeof deck;

/** Edges in pixels; from one tile to several. */
const uploads = [
  { width: 32, height: 32, format: 'png' },
  { width: 48, height: 64, format: 'jpeg' },
  { width: 64, height: 64, format: 'webp' },
  { width: 64, height: 48, format: 'png' },
  { width: 40, height: 40, format: 'avif' },
  { width: 56, height: 56, format: 'tiff' },
  { width: 96, height: 96, format: 'jpeg' },
  { width: 150, height: 100, format: 'jpeg' },
] as const;
const outputFormats = ['png', 'jpeg', 'webp', 'avif'];
const waitSeconds = 60;
const pollMs = 200;
const shortLifeSeconds = 5;
/** A webhook comes at once after its job, unless the machine is very busy. */
const toldLimitMs = 300_000;
const secret = `whsec_${Buffer.alloc(32, 1).toString('base64')}`;

/** What the clients need of the service. */
export const mixedClientsSettings = {
  WEBHOOK_SECRET: secret,
  WEBHOOK_ALLOWED_HOSTS: '127.0.0.1',
  IMAGE_URL_ALLOWED_HOSTS: '127.0.0.1',
  // The shortest that there is: keys of repeated requests come and go.
  IDEMPOTENCY_KEY_SECONDS: '60',
};

interface Upload {
  bytes: Uint8Array<ArrayBuffer>;
  type: string;
}

interface Job {
  id: string;
  status: string;
}

const isFinal = ({ status }: Job): boolean => status !== 'queued' && status !== 'processing';

/** An answer other than the one that is due. */
class Wrong extends Error {
  override readonly name = 'Wrong';
}

export class MixedClients {
  /** Clients that came to their end, by kind. */
  readonly served: Partial<Record<Kind, number>> = {};
  /** Jobs by how they ended, as their clients saw it; and how many were sent. */
  readonly jobs: Record<string, number> = {};
  sent = 0;
  /** Requests that were refused, as they should be, by code. */
  readonly refused: Record<string, number> = {};
  /** How many requests or clients went wrong. */
  faults = 0;
  readonly #url: string;
  readonly #uploads: readonly Upload[];
  readonly #others: Server;
  readonly #othersUrl: string;
  readonly #told = new Map<string, string>();
  readonly #later = new Set<Promise<void>>();
  readonly #random: (below: number) => number;
  readonly #verifier = new Webhook(secret);
  #deck: Kind[] = [];

  private constructor(url: string, images: readonly Upload[], others: Server, seed: number) {
    this.#url = url;
    this.#uploads = images;
    this.#others = others;
    this.#othersUrl = `http://127.0.0.1:${(others.address() as AddressInfo).port}`;
    this.#random = generator(seed);
    others.on('request', async (request, response) => {
      const image = /^\/image\/(\d+)$/.exec(request.url ?? '')?.[1];
      if (image !== undefined) {
        response.end(this.#uploads[Number(image)]?.bytes);
        return;
      }
      const body = await text(request);
      response.writeHead(204).end();
      try {
        const event = this.#verifier.verify(body, request.headers as Record<string, string>);
        const { type, data } = event as { type: string; data: Job };
        this.#told.set(data.id, type);
      } catch (error) {
        this.#note('webhook', error);
      }
    });
  }

  static async start(url: string, seed = 1): Promise<MixedClients> {
    const photo = path.join(root, 'test/photos/cat-128.jpg');
    const images = await Promise.all(
      uploads.map(async ({ width, height, format }) => ({
        bytes: new Uint8Array(await sharp(photo).resize(width, height).toFormat(format).toBuffer()),
        type: `image/${format}`,
      })),
    );
    const others = createServer();
    await new Promise<void>((resolve) => others.listen(0, '127.0.0.1', resolve));
    return new MixedClients(url, images, others, seed);
  }

  /** One client, from its first request to its last. Never rejects: faults are counted, and told on stderr. */
  async next(): Promise<void> {
    const kind = this.#draw();
    try {
      await this.#clients[kind]();
      this.served[kind] = (this.served[kind] ?? 0) + 1;
    } catch (error) {
      this.#note(kind, error);
    }
  }

  /** Forgets what was counted so far. */
  reset(): void {
    for (const counts of [this.served, this.jobs, this.refused]) {
      for (const name of Object.keys(counts)) delete (counts as Record<string, number>)[name];
    }
    this.faults = 0;
    this.sent = 0;
  }

  /** Resolves when those have come who come later. */
  async settled(): Promise<void> {
    await Promise.all(this.#later);
  }

  stop(): void {
    this.#others.closeAllConnections();
    this.#others.close();
  }

  /** Every deck has the same clients, in another order: each stretch of the load is as heavy as the next. */
  #draw(): Kind {
    if (this.#deck.length === 0) {
      const cards = Object.entries(deck) as [Kind, number][];
      this.#deck = cards.flatMap(([kind, count]) => Array<Kind>(count).fill(kind));
    }
    const [kind] = this.#deck.splice(this.#random(this.#deck.length), 1);
    return kind ?? 'form, waits for the job';
  }

  readonly #clients: Record<Kind, () => Promise<void>> = {
    'image as the body, polled': async () => {
      const { id } = await this.#send(this.#body());
      for (;;) {
        const job = (await (await this.#get(`/upscale/${id}`)).json()) as Job;
        if (isFinal(job)) break;
        await delay(pollMs);
      }
      await this.#takeAndDelete(id);
    },

    'form, waits for the job': async () => {
      const form = new FormData();
      const { bytes, type } = this.#upload();
      form.set('image', new Blob([bytes], { type }), 'photo');
      const job = await this.#sendAndWait({ body: form });
      await this.#takeAndDelete(job.id);
    },

    'image by URL, waits for the image': async () => {
      const image_url = `${this.#othersUrl}/image/${this.#random(this.#uploads.length)}`;
      const headers = { 'content-type': 'application/json', accept: 'image/webp' };
      // The type that it accepts is the format.
      const dials = this.#dials().replace(/&format=.*/, '');
      const answer = await this.#post(`/upscale?${dials}`, {
        headers,
        body: JSON.stringify({ image_url }),
      });
      await bytesOf(answer, 200);
      this.sent += 1;
      this.#count('succeeded');
      await this.#delete(answer.headers.get('x-job-id') ?? '');
    },

    'image as the body, follows the events': async () => {
      const { id } = await this.#send(this.#body());
      const events = await (await this.#get(`/upscale/${id}/events`)).text();
      if (!events.includes('"status":"succeeded"')) throw new Wrong('the events told of no end');
      await this.#takeAndDelete(id);
    },

    'image as the body, told by webhook': async () => {
      const webhook = encodeURIComponent(`${this.#othersUrl}/hook`);
      const { id } = await this.#send(this.#body(), `&webhook=${webhook}`);
      const deadline = Date.now() + toldLimitMs;
      while (!this.#told.has(id)) {
        if (Date.now() > deadline) throw new Wrong('no webhook came');
        await delay(pollMs);
      }
      if (this.#told.get(id) !== 'upscale.succeeded')
        throw new Wrong('the webhook told of a fault');
      this.#told.delete(id);
      await this.#takeAndDelete(id);
    },

    'other dials of a photo (adjust)': async () => {
      // It needs one residual; the second is computed by the first adjust. Dials of its own: were it answered from the
      // result of another client, it would lose its image when that one deletes its job.
      const dial = this.#dial();
      const { id } = await this.#sendAndWait(this.#body(), '', `pix=${dial}&sem=${dial}`);
      for (let times = 0; times < 2; times += 1) {
        const job = await this.#wait(`/upscale/${id}/adjust?${this.#dials()}`);
        await this.#takeAndDelete(job.id);
      }
      await this.#takeAndDelete(id);
    },

    'sheet of dials (sweep)': async () => {
      const { id } = await this.#sendAndWait(this.#body());
      const sheet = await this.#wait(`/upscale/${id}/sweep?pix=0.5,1&sem=0,1`);
      await this.#takeAndDelete(sheet.id);
      await this.#takeAndDelete(id);
    },

    'heat map': async () => {
      const { id } = await this.#sendAndWait(this.#body());
      await bytesOf(await this.#get(`/upscale/${id}/heatmap`), 200);
      this.sent += 1;
      this.#count('succeeded');
      await this.#takeAndDelete(id);
    },

    'cancels at once': async () => {
      const { id } = await this.#send(this.#body());
      await delay(this.#random(2 * pollMs));
      const answer = await fetch(`${this.#url}/upscale/${id}`, { method: 'DELETE' });
      await bytesOf(answer, 200, 204);
      // It may have ended before.
      if (answer.status === 204) return this.#count('succeeded');
      this.#count('canceled');
      // Until the device has let go of it, its record is what stops it.
      while ((await this.#delete(id)) !== 204) await delay(pollMs);
    },

    'repeats with an idempotency key': async () => {
      const { headers, body } = this.#body();
      const dials = this.#dials();
      const request = { headers: { ...headers, 'idempotency-key': randomUUID() }, body };
      const { id } = await this.#sendAndWait(request, '', dials);
      const again = await this.#post(`/upscale?${dials}`, request);
      const job = (await again.json()) as Job;
      if (job.id !== id || again.headers.get('idempotency-replayed') !== 'true') {
        throw new Wrong(`a repeated request made another job: ${again.status}`);
      }
      await this.#takeAndDelete(id);
    },

    'sends what was made before': async () => {
      const request = this.#body();
      const dials = this.#dials();
      const first = await this.#sendAndWait(request, '', dials);
      const answer = await this.#post(`/upscale?${dials}`, request);
      const second = (await answer.json()) as Job;
      if (answer.headers.get('x-cache') !== 'hit' || second.id === first.id) {
        throw new Wrong(`made anew: ${answer.status} ${answer.headers.get('x-cache')}`);
      }
      this.sent += 1;
      await this.#takeAndDelete(second.id, 'answered from a stored result');
      await this.#takeAndDelete(first.id);
    },

    'comes after the result has expired': async () => {
      const { id } = await this.#sendAndWait(this.#body(), `&ttl=${shortLifeSeconds}`);
      this.#count('succeeded');
      const later = async (): Promise<void> => {
        await delay((shortLifeSeconds + 1) * 1000);
        await this.#refused(await this.#get(`/upscale/${id}/result`), [410]);
        await this.#delete(id);
      };
      const coming = later()
        .catch((error: unknown) => this.#note('comes later', error))
        .finally(() => this.#later.delete(coming));
      this.#later.add(coming);
    },

    'sends a damaged image': async () => {
      const { bytes, type } = this.#upload();
      let body: Buffer = Buffer.from(bytes).subarray(0, Math.floor(bytes.length / 2));
      for (let times = this.#random(4); times >= 0; times -= 1) body = damage(body, this.#random);
      const request = { headers: { 'content-type': type }, body: new Uint8Array(body) };
      const answer = await this.#post(`/upscale?${this.#dials()}`, request);
      // Some formats can be read though half of them is missing. Nothing may be left: 400.
      if (answer.status !== 202) return this.#refused(answer, [400, 413, 415, 422]);
      this.sent += 1;
      const { id } = (await answer.json()) as Job;
      const ended = await this.#get(`/upscale/${id}/events`);
      await ended.arrayBuffer();
      const job = (await (await this.#get(`/upscale/${id}`)).json()) as Job;
      this.#count(`${job.status}, of a damaged image`);
      await this.#delete(id);
    },

    'sends what is not allowed': async () => {
      const json = { 'content-type': 'application/json' };
      const inside = JSON.stringify({ image_url: 'http://[::ffff:169.254.169.254]/latest/' });
      await this.#refused(await this.#post('/upscale', { headers: json, body: inside }), [422]);
      await this.#refused(await this.#post('/upscale?sem=3', this.#body()), [400, 422]);
      await this.#refused(await this.#post('/upscale?model=none-such', this.#body()), [404, 422]);
      await this.#refused(await this.#get(`/upscale/${randomUUID()}`), [404]);
    },
  };

  #upload(): Upload {
    return this.#uploads[this.#random(this.#uploads.length)] as Upload;
  }

  #body(): { headers: Record<string, string>; body: Uint8Array<ArrayBuffer> } {
    const { bytes, type } = this.#upload();
    return { headers: { 'content-type': type }, body: bytes };
  }

  #dial(): string {
    return (this.#random(200_001) / 100_000).toFixed(5);
  }

  /** A third of them needs one evaluation of the UNet, the others two. */
  #dials(): string {
    const sem = this.#dial();
    const pix = this.#random(3) === 0 ? sem : this.#dial();
    return `pix=${pix}&sem=${sem}&format=${outputFormats[this.#random(outputFormats.length)]}`;
  }

  #get(path: string): Promise<Response> {
    return fetch(this.#url + path);
  }

  #post(path: string, init: RequestInit = {}): Promise<Response> {
    return fetch(this.#url + path, { method: 'POST', ...init });
  }

  async #send(init: RequestInit, query = ''): Promise<Job> {
    const answer = await this.#post(`/upscale?${this.#dials()}${query}`, init);
    if (answer.status !== 202) throw new Wrong(`${answer.status} ${await answer.text()}`);
    this.sent += 1;
    return (await answer.json()) as Job;
  }

  #sendAndWait(init: RequestInit, query = '', dials = this.#dials()): Promise<Job> {
    return this.#wait(`/upscale?${dials}${query}`, init);
  }

  /** Waits for the job as long as a request can, then follows its events. */
  async #wait(path: string, init: RequestInit = {}): Promise<Job> {
    const headers = { ...init.headers, prefer: `wait=${waitSeconds}` };
    const answer = await this.#post(path, { ...init, headers });
    if (answer.status !== 200 && answer.status !== 202) {
      throw new Wrong(`${answer.status} ${await answer.text()}`);
    }
    this.sent += 1;
    const job = (await answer.json()) as Job;
    if (!isFinal(job)) await (await this.#get(`/upscale/${job.id}/events`)).arrayBuffer();
    return job;
  }

  async #takeAndDelete(id: string, end = 'succeeded'): Promise<void> {
    const answer = await this.#get(`/upscale/${id}/result`);
    if ((await bytesOf(answer, 200)).length === 0) throw new Wrong('an empty result');
    this.#count(end);
    await this.#delete(id);
  }

  async #delete(id: string): Promise<number> {
    const answer = await fetch(`${this.#url}/upscale/${id}`, { method: 'DELETE' });
    await bytesOf(answer, 204, 200);
    return answer.status;
  }

  async #refused(answer: Response, statuses: readonly number[]): Promise<void> {
    const { code } = JSON.parse((await bytesOf(answer, ...statuses)).toString()) as {
      code: string;
    };
    this.refused[code] = (this.refused[code] ?? 0) + 1;
  }

  #note(who: string, error: unknown): void {
    this.faults += 1;
    console.error(`${new Date().toISOString()} ${who}: ${error}`);
  }

  #count(end: string): void {
    this.jobs[end] = (this.jobs[end] ?? 0) + 1;
  }
}

/** @throws Wrong when the status is none of those that are due */
async function bytesOf(answer: Response, ...due: number[]): Promise<Buffer> {
  const bytes = Buffer.from(await answer.arrayBuffer());
  if (due.includes(answer.status)) return bytes;
  throw new Wrong(
    `${answer.status} instead of ${due.join(' or ')} from ${answer.url}: ${bytes.subarray(0, 500)}`,
  );
}
