/**
 * Changes to a release that need more than one upgrade, or that Helm, KEDA and Kubernetes could get in the way of:
 * docs/kubernetes.md, "Upgrade and rollback".
 */
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Cluster } from './cluster.ts';
import { definitionFiles } from './definitions.ts';
import { chart } from './helm.ts';
import { rolledOut } from './inspect.ts';
import type { KubernetesObject } from './kubernetes-api.ts';
import { playNodes } from './nodes.ts';

/** GPUs of a node: a pod that finds none waits until one is free. */
class Gpus {
  readonly #count: number;
  readonly #holders = new Set<string>();
  readonly #waiting = new Map<string, () => void>();

  constructor(count: number) {
    this.#count = count;
  }

  /** Resolves when the pod has one. */
  take(pod: string): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.set(pod, resolve);
      this.#handOut();
    });
  }

  /** The pod goes, whether it had one or waited. */
  give(pod: string): void {
    this.#waiting.delete(pod);
    this.#holders.delete(pod);
    this.#handOut();
  }

  #handOut(): void {
    for (const [pod, resolve] of this.#waiting) {
      if (this.#holders.size === this.#count) return;
      this.#waiting.delete(pod);
      this.#holders.add(pod);
      resolve();
    }
  }
}

const gpuCount = 4;
const gpus = new Gpus(gpuCount);
let cluster: Cluster;
let stopNodes: () => Promise<void>;

beforeAll(async () => {
  cluster = await Cluster.start();
  await cluster.addDefinitions(await definitionFiles());
  const needsGpu = ({ spec }: KubernetesObject) =>
    spec.containers[0].resources?.limits?.['nvidia.com/gpu'] !== undefined;
  stopNodes = await playNodes(cluster, {
    start: async (pod) => {
      if (needsGpu(pod)) await gpus.take(pod.metadata.uid ?? '');
    },
    end: async (pod) => gpus.give(pod.metadata.uid ?? ''),
  });
});
afterAll(async () => {
  try {
    await stopNodes?.();
  } finally {
    await cluster?.stop();
  }
});

/** `helm install` and `upgrade` of the small example with some values. */
const run = (namespace: string, command: 'install' | 'upgrade', ...values: string[]) =>
  cluster.helm(
    namespace,
    command,
    '--values',
    path.join(chart, 'values-laptop.yaml'),
    ...values.flatMap((value) => (value.startsWith('--') ? [value] : ['--set', value])),
  );

test('a roll-out of more GPU pods than GPUs stops, and goes on once maxReplicas is what there is', async () => {
  const namespace = 'gpus';
  const deployment = cluster.path('Deployment', namespace, cluster.nameOf('worker-gpu'));
  const scaling = (count: number) =>
    ['mode=hpa', `minReplicas=${count}`, `maxReplicas=${count}`].map(
      (value) => `workers.gpu.scaling.${value}`,
    );
  const gpu = ['workers.cpu.enabled=false', 'workers.gpu.enabled=true'];
  await cluster.makeNamespace(namespace);
  await run(namespace, 'install', ...gpu, ...scaling(2 * gpuCount));
  await cluster.api.until(
    deployment,
    ({ status }) => status?.replicas === 2 * gpuCount && status.readyReplicas === gpuCount,
  );
  await run(namespace, 'upgrade', ...gpu, ...scaling(2 * gpuCount), 'image.tag=2.0.0');
  // The quarter that may be away is: pods of the new version, which wait as the old ones did that they replace.
  await cluster.api.until(
    deployment,
    ({ status }) =>
      status?.replicas === 2 * gpuCount &&
      status.updatedReplicas === (2 * gpuCount) / 4 &&
      status.readyReplicas === gpuCount,
  );

  await run(namespace, 'upgrade', ...gpu, ...scaling(gpuCount), 'image.tag=2.0.0');
  await cluster.api.until(deployment, ({ spec }) => spec.replicas === gpuCount);
  await rolledOut(cluster, namespace);
  const pods = await cluster.podsOf(namespace, 'worker-gpu');
  expect(pods.map(({ spec }) => spec.containers[0].image)).toEqual(
    Array(gpuCount).fill('pisa-serve:2.0.0-cuda'),
  );
});

test('workers change from KEDA to an autoscaler of the chart and back', async () => {
  const namespace = 'modes';
  const mode = (name: string) => `workerDefaults.scaling.mode=${name}`;
  const scalers = async () => {
    const lists = ['ScaledObject', 'HorizontalPodAutoscaler'].map((kind) =>
      cluster.list(kind, namespace),
    );
    return (await Promise.all(lists)).flat().map(({ kind }) => kind);
  };
  await cluster.makeNamespace(namespace);
  await run(namespace, 'install', mode('keda'));
  const name = cluster.nameOf('worker-cpu');
  const { spec, metadata } = await cluster.get('ScaledObject', namespace, name);
  // As KEDA makes it. With its owner it goes.
  const owner = { apiVersion: 'keda.sh/v1alpha1', kind: 'ScaledObject', name, uid: metadata.uid };
  await cluster.api.create(cluster.path('HorizontalPodAutoscaler', namespace), {
    metadata: {
      name: spec.advanced.horizontalPodAutoscalerConfig.name,
      ownerReferences: [owner],
    },
    spec: {
      scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name },
      maxReplicas: 10,
    },
  });
  await run(namespace, 'upgrade', mode('hpa'));
  await expect.poll(scalers, { timeout: 60_000 }).toEqual(['HorizontalPodAutoscaler']);
  await run(namespace, 'upgrade', mode('keda'));
  expect(await scalers()).toEqual(['ScaledObject']);
});

test('autoscaling is turned on without a drop where Helm takes the release anew', async () => {
  const namespace = 'autoscaling';
  const replicas = async () => {
    const names = ['api', 'worker-cpu'].map((name) => cluster.nameOf(name));
    const all = names.map((name) => cluster.get('Deployment', namespace, name));
    return (await Promise.all(all)).map(({ spec }) => spec.replicas);
  };
  const fixed = ['api.replicas=3', 'workerDefaults.replicas=3'];
  const scaled = ['api.autoscaling.enabled=true', 'workerDefaults.scaling.mode=keda'];
  await cluster.makeNamespace(namespace);
  await run(namespace, 'install', ...fixed);
  await rolledOut(cluster, namespace);
  for (const { metadata } of await cluster.list('Secret', namespace)) {
    if (metadata.labels?.owner === 'helm' && metadata.labels.name === 'up') {
      await cluster.api.delete(cluster.path('Secret', namespace, metadata.name));
    }
  }
  await run(namespace, 'upgrade', '--install', ...fixed, ...scaled);
  expect(await replicas()).toEqual([3, 3]);
  await run(namespace, 'upgrade', ...fixed, ...scaled, 'image.tag=2.0.0');
  expect(await replicas()).toEqual([3, 3]);
});

test('priorities are changed by an upgrade, although a class keeps its number', async () => {
  const namespace = 'priorities';
  const classes = async () =>
    (await cluster.list('PriorityClass', ''))
      .filter(({ metadata }) => metadata.name.startsWith(`${namespace}-`))
      .map(({ metadata }) => metadata.name)
      .sort();
  await cluster.makeNamespace(namespace);
  await run(namespace, 'install', 'priorityClasses.create=true');
  const set = ['priorityClasses.create=true', 'priorityClasses.worker=10'];
  await run(namespace, 'upgrade', ...set);
  await rolledOut(cluster, namespace);
  expect(await classes()).toEqual([
    'priorities-up-pisa-serve-api-100000',
    'priorities-up-pisa-serve-worker-10',
  ]);
  const [pod] = await cluster.podsOf(namespace, 'worker-cpu');
  expect(pod?.spec).toMatchObject({ priority: 10, preemptionPolicy: 'Never' });
});
