// A worker in a process of its own: node worker-process.mjs <compiled src> <WorkerOptions as JSON>
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import pino from 'pino';

const [build, options] = process.argv.slice(2);
const file = pathToFileURL(path.join(build, 'worker/start-worker.js')).href;
const { startWorker } = await import(file);
const worker = await startWorker({ ...JSON.parse(options), logger: pino({ level: 'silent' }) });
process.once('SIGTERM', () => void worker.close().then(() => process.exit(0)));
await worker.ready;
process.stdout.write('ready\n');
