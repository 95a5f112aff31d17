// A deliverer in a process of its own: node webhooks-process.mjs <compiled src> <DelivererOptions as JSON>
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import pino from 'pino';

const [build, text] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(path.join(build, file)).href);
const { Deliverer } = await load('webhooks/deliverer.js');
const { UpscaleQueue } = await load('jobs/queue.js');
const { openStore } = await load('storage/open-store.js');
const options = JSON.parse(text);
const queue = new UpscaleQueue({
  redisUrl: options.redisUrl,
  store: openStore(options.store, { role: 'producer', sweep: false }),
  resultTtlSeconds: 3600,
});
await queue.ready(20_000);
const deliverer = new Deliverer({ ...options, queue, logger: pino({ level: 'silent' }) });
await deliverer.ready;
process.stdout.write('ready\n');
