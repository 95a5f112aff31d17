/** The thread of health-probe.ts: asks again and again, whether or not the last answer has come. */
import { Agent, get } from 'node:http';
import { parentPort, workerData } from 'node:worker_threads';

const { url, everyMs } = workerData as { url: string; everyMs: number };
const agent = new Agent({ keepAlive: true });
const latenciesMs: number[] = [];

const timer = setInterval(() => {
  const startedAt = performance.now();
  const note = (ok: boolean) =>
    latenciesMs.push(ok ? performance.now() - startedAt : Number.POSITIVE_INFINITY);
  get(url, { agent }, (answer) => {
    answer.resume().on('end', () => note(answer.statusCode === 200));
  }).on('error', () => note(false));
}, everyMs);

parentPort?.once('message', () => {
  clearInterval(timer);
  agent.destroy();
  parentPort?.postMessage(latenciesMs);
});
