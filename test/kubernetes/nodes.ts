/**
 * Plays the scheduler and the kubelets: pods are bound to a node, become ready when what they need is there, and go
 * when they are deleted. No container runs: what a pod does meanwhile is the test's.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Cluster } from './cluster.ts';
import { type KubernetesApi, type KubernetesObject, Refused } from './kubernetes-api.ts';
import { missingNeeds } from './pod-needs.ts';

export interface PodLife {
  /** The containers start; the pod is ready when this resolves. */
  start?: (pod: KubernetesObject) => Promise<void>;
  /** SIGTERM. The pod goes when this resolves, or when its grace period ends. */
  end?: (pod: KubernetesObject) => Promise<void>;
}

const nodeName = 'node-1';
const lookMs = 200;
const mountedKinds = ['Secret', 'ConfigMap', 'PersistentVolumeClaim', 'ServiceAccount'];

/** @returns a function that ends the play */
export async function playNodes(
  cluster: Cluster,
  life: PodLife = {},
): Promise<() => Promise<void>> {
  const { api } = cluster;
  await api.create('/api/v1/nodes', { metadata: { name: nodeName } });
  const known = new Set<string>();
  const started = new Set<string>();
  const faults: unknown[] = [];
  let stopped = false;
  const once = (what: string, pod: KubernetesObject, act: () => Promise<unknown>) => {
    const key = `${what} ${pod.metadata.uid}`;
    if (known.has(key)) return;
    known.add(key);
    // A pod may go between the list and what we do with it.
    act().catch((error: unknown) => error instanceof Refused || faults.push(error));
  };
  const look = async () => {
    for (const pod of await api.list('/api/v1/pods')) {
      const path = cluster.path('Pod', pod.metadata.namespace ?? '', pod.metadata.name);
      if (pod.metadata.deletionTimestamp) {
        once('end', pod, () => end(api, path, pod, life));
      } else if (!pod.spec.nodeName) {
        once('bind', pod, () => bind(api, path, pod));
      } else if (!started.has(pod.metadata.uid ?? '') && (await hasAll(cluster, pod))) {
        started.add(pod.metadata.uid ?? '');
        once('start', pod, () => start(api, path, pod, life));
      }
    }
  };
  const run = async () => {
    while (!stopped) {
      await look();
      await delay(lookMs);
    }
  };
  const running = run();
  return async () => {
    stopped = true;
    await running;
    if (faults.length > 0) throw faults[0];
  };
}

async function hasAll(cluster: Cluster, { metadata, spec }: KubernetesObject): Promise<boolean> {
  const namespace = metadata.namespace ?? '';
  const lists = await Promise.all(mountedKinds.map((kind) => cluster.list(kind, namespace)));
  const pod: KubernetesObject = { metadata, spec: { template: { spec } } };
  return missingNeeds([...lists.flat(), pod]).length === 0;
}

async function start(api: KubernetesApi, path: string, pod: KubernetesObject, life: PodLife) {
  await life.start?.(pod);
  await api.patch(`${path}/status`, readyStatus(pod));
}

async function end(api: KubernetesApi, path: string, pod: KubernetesObject, life: PodLife) {
  const graceMs = (pod.metadata.deletionGracePeriodSeconds ?? 0) * 1000;
  const grace = new AbortController();
  const over = delay(graceMs, undefined, { signal: grace.signal }).catch(() => {});
  await Promise.race([life.end?.(pod), life.end ? over : undefined]);
  grace.abort();
  await api.delete(path, { gracePeriodSeconds: 0 });
}

const bind = (api: KubernetesApi, path: string, { metadata }: KubernetesObject) =>
  api.create(`${path}/binding`, {
    apiVersion: 'v1',
    kind: 'Binding',
    metadata: { name: metadata.name },
    target: { apiVersion: 'v1', kind: 'Node', name: nodeName },
  });

let lastAddress = 0;

function readyStatus({ spec }: KubernetesObject): object {
  const now = new Date().toISOString();
  const containers = spec.containers as { name: string; image: string }[];
  lastAddress += 1;
  const podIP = `10.1.${Math.floor(lastAddress / 250)}.${(lastAddress % 250) + 1}`;
  return {
    status: {
      phase: 'Running',
      startTime: now,
      podIP,
      podIPs: [{ ip: podIP }],
      conditions: ['Initialized', 'Ready', 'ContainersReady', 'PodScheduled'].map((type) => ({
        type,
        status: 'True',
        lastTransitionTime: now,
      })),
      containerStatuses: containers.map(({ name, image }) => ({
        name,
        image,
        imageID: image,
        ready: true,
        started: true,
        restartCount: 0,
        state: { running: { startedAt: now } },
      })),
    },
  };
}
