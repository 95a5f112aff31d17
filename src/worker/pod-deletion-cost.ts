/**
 * Tells Kubernetes how many jobs run in this pod, so that it ends idle workers first when it scales down: the
 * annotation `controller.kubernetes.io/pod-deletion-cost` of our own pod, which ReplicaSets obey.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { Logger } from 'pino';
import { Agent, request } from 'undici';
import type { Config } from '../config.ts';

export interface PodDeletionCostOptions {
  config: Pick<Config, 'KUBERNETES_POD' | 'KUBERNETES_API_URL'>;
  logger: Logger;
  /** Jobs that run in this worker now. */
  jobs: () => number;
  /** Default: where Kubernetes mounts the token, the namespace and the certificate of its API server. */
  accountFolder?: string;
  intervalMs?: number;
}

const serviceAccountFolder = '/var/run/secrets/kubernetes.io/serviceaccount';
/** Every patch is a write to the cluster's API server: a worker with short jobs must not make one for each. */
const defaultIntervalMs = 10_000;
const requestLimitMs = 5000;
const annotation = 'controller.kubernetes.io/pod-deletion-cost';

/**
 * Reports at an interval, and only what has changed. A report that fails is logged, once for each new fault, and
 * made again: a wrong order of deletion costs time, as the job is handed back, but no job.
 */
export function startPodDeletionCost(options: PodDeletionCostOptions): { stop: () => void } {
  const { config, logger, jobs } = options;
  const folder = options.accountFolder ?? serviceAccountFolder;
  let reported: number | undefined;
  let fault = '';
  let running = false;
  const report = async (): Promise<void> => {
    const cost = jobs();
    if (running || cost === reported) return;
    running = true;
    try {
      await patchOwnPod(config, folder, cost);
      reported = cost;
      fault = '';
    } catch (error) {
      const { message } = error as Error;
      if (message !== fault) logger.warn({ err: error }, 'the pod deletion cost was not set');
      fault = message;
    } finally {
      running = false;
    }
  };
  const timer = setInterval(report, options.intervalMs ?? defaultIntervalMs);
  void report();
  return { stop: () => clearInterval(timer) };
}

/** Token and certificate are read each time: Kubernetes replaces both while we run. */
async function patchOwnPod(
  config: PodDeletionCostOptions['config'],
  folder: string,
  cost: number,
): Promise<void> {
  const [token, namespace, ca] = await Promise.all(
    ['token', 'namespace', 'ca.crt'].map((name) => readFile(path.join(folder, name), 'utf8')),
  );
  const address = `/api/v1/namespaces/${namespace?.trim()}/pods/${config.KUBERNETES_POD}`;
  const dispatcher = new Agent({ connect: { ca: ca ?? '' } });
  try {
    const { statusCode, body } = await request(new URL(address, config.KUBERNETES_API_URL), {
      dispatcher,
      method: 'PATCH',
      headers: {
        authorization: `Bearer ${token?.trim()}`,
        'content-type': 'application/merge-patch+json',
      },
      body: JSON.stringify({ metadata: { annotations: { [annotation]: String(cost) } } }),
      signal: AbortSignal.timeout(requestLimitMs),
    });
    const answer = await body.text();
    if (statusCode !== 200) {
      throw new Error(
        `Kubernetes answered ${statusCode} to a patch of pod ${config.KUBERNETES_POD}: ${reasonOf(answer)} The worker's service account needs to patch pods; or unset KUBERNETES_POD.`,
      );
    }
  } finally {
    await dispatcher.close();
  }
}

/** The `message` of a Kubernetes Status object. */
function reasonOf(answer: string): string {
  try {
    const { message } = JSON.parse(answer) as { message?: string };
    return `${message ?? 'no reason given'}.`;
  } catch {
    return 'no reason given.';
  }
}
