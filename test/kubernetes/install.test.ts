/**
 * The chart in a real Kubernetes control plane, in namespaces that enforce the restricted Pod Security Standard:
 * install from nothing, read back, pods by Kubernetes' own controllers, upgrade, roll back, uninstall; and faults
 * that these checks must catch.
 */
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startPodDeletionCost } from '../../src/worker/pod-deletion-cost.ts';
import { Cluster, expectAllThere } from './cluster.ts';
import { definitionFiles } from './definitions.ts';
import { chart } from './helm.ts';
import { leftIn, missingInCluster, readyEndpoints, refusedPods, rolledOut } from './inspect.ts';
import type { KubernetesObject } from './kubernetes-api.ts';
import { playNodes } from './nodes.ts';

const costAnnotation = 'controller.kubernetes.io/pod-deletion-cost';

let cluster: Cluster;
let stopNodes: () => Promise<void>;

beforeAll(async () => {
  cluster = await Cluster.start();
  stopNodes = await playNodes(cluster);
});
afterAll(async () => {
  try {
    await stopNodes?.();
  } finally {
    await cluster?.stop();
  }
});

const example = (name: string) => ['--values', path.join(chart, `values-${name}.yaml`)];

/** What every release must be. @returns how many pods each workload has */
async function expectSound(namespace: string): Promise<Record<string, number>> {
  await expectAllThere(cluster, namespace);
  expect(await missingInCluster(cluster, namespace)).toEqual([]);
  let pods: Record<string, number> = {};
  const surplus = async () => {
    // An autoscaler may want others meanwhile.
    pods = await rolledOut(cluster, namespace);
    const wanted = Object.values(pods).reduce((sum, count) => sum + count, 0);
    return (await cluster.list('Pod', namespace)).length - wanted;
  };
  await expect.poll(surplus, { timeout: 60_000 }).toBe(0);
  expect(await refusedPods(cluster, namespace)).toEqual([]);
  // The pod of `helm test` is made when it is asked for.
  const hooks = await cluster.hooks(namespace);
  expect(hooks.map(({ kind }) => kind)).toEqual(['Pod']);
  await cluster.api.create(`${cluster.path('Pod', namespace)}?dryRun=All`, hooks[0] ?? {});
  return pods;
}

/** Waits until a namespace is as it was before the release, but for the data of Redis. */
async function expectGone(namespace: string, claims: string[]): Promise<void> {
  const objects = await cluster.manifest(namespace);
  await cluster.helm(namespace, 'uninstall', '--wait');
  await expect.poll(() => leftIn(cluster, namespace), { timeout: 240_000 }).toEqual(claims);
  for (const { kind = '', metadata } of objects) {
    const left = await cluster.list(kind, namespace);
    expect(left.map(({ metadata: { name } }) => name)).not.toContain(metadata.name);
  }
}

test('values-laptop.yaml installs, runs and goes where neither KEDA nor the Prometheus operator is', async () => {
  const namespace = 'laptop';
  await cluster.makeNamespace(namespace);
  await cluster.helm(namespace, 'install', ...example('laptop'));
  expect(await expectSound(namespace)).toEqual({
    'up-pisa-serve-redis': 1,
    'up-pisa-serve-api': 1,
    'up-pisa-serve-worker-cpu': 1,
  });
  await expectGone(namespace, ['PersistentVolumeClaim data-up-pisa-serve-redis-0']);
});

test('without KEDA the values of the chart are refused with its name, and nothing is made', async () => {
  const namespace = 'no-keda';
  await cluster.makeNamespace(namespace);
  await expect(cluster.helm(namespace, 'install')).rejects.toThrow(/keda\.sh.*CRDs/s);
  expect(await leftIn(cluster, namespace)).toEqual([]);
  await cluster.addDefinitions(await definitionFiles());
});

describe('with the values of the chart', () => {
  const namespace = 'photos';
  const components = ['api', 'worker-cpu'];
  const images = async () => {
    const pods = await Promise.all(components.map((name) => cluster.podsOf(namespace, name)));
    return new Set(pods.flat().map(({ spec }) => spec.containers[0].image));
  };

  test('helm installs from nothing: all is there, every pod runs, services find their pods', async () => {
    await cluster.makeNamespace(namespace);
    const notes = await cluster.helm(namespace, 'install');
    expect(notes).toContain('get secret up-pisa-serve-api-keys');
    // The autoscaler brings the API from one pod to its fewest.
    await cluster.api.until(
      cluster.path('Deployment', namespace, cluster.nameOf('api')),
      ({ spec }) => spec.replicas === 2,
    );
    expect(await expectSound(namespace)).toEqual({
      'up-pisa-serve-redis': 1,
      'up-pisa-serve-api': 2,
      'up-pisa-serve-worker-cpu': 1,
    });
    await expect
      .poll(() => readyEndpoints(cluster, namespace), { timeout: 60_000 })
      .toEqual({ 'up-pisa-serve': 2, 'up-pisa-serve-redis': 1 });
  });

  test('a disruption budget lets one API pod be evicted, and not the next', async () => {
    const budget = cluster.path('PodDisruptionBudget', namespace, 'up-pisa-serve-api');
    await cluster.api.until(budget, ({ status }) => status?.disruptionsAllowed === 1);
    const pods = await cluster.podsOf(namespace, 'api');
    const evict = ({ metadata: { name } }: KubernetesObject) =>
      cluster.api.create(`${cluster.path('Pod', namespace, name)}/eviction`, {
        apiVersion: 'policy/v1',
        kind: 'Eviction',
        metadata: { name, namespace },
      });
    const [first, second] = pods;
    if (!first || !second) throw new Error('the chart makes fewer than two API pods');
    await evict(first);
    await expect(evict(second)).rejects.toThrow(/429.*disruption budget/);
    await rolledOut(cluster, namespace);
  });

  test('an upgrade and a rollback replace every pod, never leave fewer ready, keep passwords and what scalers chose', async () => {
    for (const component of components) await cluster.scale(namespace, component, 4);
    await rolledOut(cluster, namespace);
    const manifest = await cluster.manifest(namespace);
    const shipped = await images();
    const secrets = await secretsOf(namespace);
    expect(Object.keys(secrets)).toEqual(['up-pisa-serve-api-keys', 'up-pisa-serve-redis']);
    const fewestReady = watchReady(namespace, components);

    const set = ['--set', 'image.tag=2.0.0,webhooks.enabled=true'];
    await cluster.helm(namespace, 'upgrade', ...set);
    expect(await expectSound(namespace)).toMatchObject({
      'up-pisa-serve-api': 4,
      'up-pisa-serve-worker-cpu': 4,
    });
    expect(await images()).toEqual(new Set(['pisa-serve:2.0.0']));
    expect(await secretsOf(namespace)).toMatchObject(secrets);

    await cluster.helm(namespace, 'rollback', '1');
    expect(await expectSound(namespace)).toMatchObject({
      'up-pisa-serve-api': 4,
      'up-pisa-serve-worker-cpu': 4,
    });
    expect(shipped).not.toEqual(new Set(['pisa-serve:2.0.0']));
    expect(await images()).toEqual(shipped);
    expect(await cluster.manifest(namespace)).toEqual(manifest);
    expect(await secretsOf(namespace)).toEqual(secrets);
    expect(await fewestReady()).toEqual({ api: 4, 'worker-cpu': 4 });
  });

  test('what the schema refuses changes nothing, and a rollback undoes what the API server refuses', async () => {
    const before = await cluster.manifest(namespace);
    await expect(
      cluster.helm(namespace, 'upgrade', '--set', 'api.autoscaling.minReplicas=many'),
    ).rejects.toThrow(/minReplicas.*got string, want integer/s);
    expect(await cluster.manifest(namespace)).toEqual(before);
    const soon = planted(
      'terminationGracePeriodSeconds: .*',
      'terminationGracePeriodSeconds: soon',
    );
    await expect(cluster.helm(namespace, 'upgrade', ...soon)).rejects.toThrow(/soon|unmarshal/);
    const ten = planted('maxReplicaCount: .*', 'maxReplicaCount: ten');
    await expect(cluster.helm(namespace, 'upgrade', ...ten)).rejects.toThrow(
      /maxReplicaCount.*must be of type integer/s,
    );
    await cluster.helm(namespace, 'rollback', '1');
    expect(await cluster.manifest(namespace)).toEqual(before);
    await expectSound(namespace);
  });

  test('an uninstall leaves the volume of Redis and nothing else', async () => {
    await expectGone(namespace, ['PersistentVolumeClaim data-up-pisa-serve-redis-0']);
  });
});

test('values-gpu-node.yaml runs where there is a RuntimeClass for its GPUs', async () => {
  const namespace = 'gpu-node';
  // As NVIDIA's operator makes it.
  const nvidia = { metadata: { name: 'nvidia' }, handler: 'nvidia' };
  await cluster.create('RuntimeClass', '', nvidia);
  await cluster.makeNamespace(namespace);
  await cluster.helm(namespace, 'install', ...example('gpu-node'));
  expect(await expectSound(namespace)).toMatchObject({ 'up-pisa-serve-worker-gpu': 1 });
  const [pod] = await cluster.podsOf(namespace, 'worker-gpu');
  expect(pod?.spec.containers[0].resources.limits['nvidia.com/gpu']).toBe('1');
  await cluster.helm(namespace, 'uninstall');
});

describe('with values-production.yaml', () => {
  const namespace = 'production';

  test('what has to be there beforehand is named while it is missing, and with it all runs', async () => {
    await cluster.makeNamespace(namespace);
    await cluster.helm(namespace, 'install', ...example('production'));
    const secrets: Record<string, string[]> = {
      registry: ['.dockerconfigjson'],
      'upscale-api-keys': ['keys.json'],
      'upscale-redis': ['redis-password'],
      'upscale-redis-ca': ['ca.crt'],
      'upscale-s3': ['access-key-id', 'secret-access-key'],
      'upscale-webhooks': ['webhook-secret'],
    };
    const needs = Object.entries(secrets).flatMap(([name, keys]) =>
      name === 'registry' ? `Secret ${name}` : keys.map((key) => `Secret ${name} ${key}`),
    );
    expect(await missingInCluster(cluster, namespace)).toEqual(
      ['PersistentVolumeClaim upscale-models', ...needs].sort(),
    );
    await cluster.create('PersistentVolumeClaim', namespace, {
      metadata: { name: 'upscale-models' },
      spec: { accessModes: ['ReadWriteMany'], resources: { requests: { storage: '20Gi' } } },
    });
    for (const [name, keys] of Object.entries(secrets)) {
      const data = Object.fromEntries(keys.map((key) => [key, 'eA==']));
      await cluster.create('Secret', namespace, { metadata: { name }, data });
    }
    const api = cluster.path('Deployment', namespace, cluster.nameOf('api'));
    await cluster.api.until(api, ({ spec }) => spec.replicas === 3);
    expect(await expectSound(namespace)).toEqual({
      'up-pisa-serve-api': 3,
      'up-pisa-serve-worker-cpu': 1,
      'up-pisa-serve-worker-gpu': 1,
    });
  });

  test('a worker notes its jobs on its own pod and can change nothing else', async () => {
    const [own] = await cluster.podsOf(namespace, 'worker-cpu');
    const [other] = await cluster.podsOf(namespace, 'worker-gpu');
    if (!own || !other) throw new Error('the chart makes no such pods');
    const at = ({ metadata: { name } }: KubernetesObject) => cluster.path('Pod', namespace, name);
    const worker = cluster.api.as((await cluster.mountAccount(own)).token);
    const cost = { [costAnnotation]: '7' };
    await worker.patch(at(own), { metadata: { annotations: cost } });
    expect((await cluster.api.get(at(own))).metadata.annotations).toMatchObject(cost);
    const refusals: [string, KubernetesObject, object, RegExp][] = [
      ['other pod', other, { metadata: { annotations: cost } }, /of its own pod only/],
      ['label', own, { metadata: { labels: { 'pisa-serve/role': 'api' } } }, /nothing of its pod/],
      ['note', own, { metadata: { annotations: { other: 'x' } } }, /nothing of its pod/],
      ['spec', own, { spec: { activeDeadlineSeconds: 1 } }, /nothing of its pod/],
    ];
    for (const [what, pod, change, message] of refusals) {
      await expect(worker.patch(at(pod), change), what).rejects.toThrow(message);
    }
    await expect(worker.list(cluster.path('Secret', namespace))).rejects.toThrow(/403/);
    await expect(worker.delete(at(own))).rejects.toThrow(/403/);
    await worker.close();
  });

  test('workers note how many jobs they run, and idle ones are ended first', async () => {
    await cluster.scale(namespace, 'worker-cpu', 4);
    await rolledOut(cluster, namespace);
    const workers = await cluster.podsOf(namespace, 'worker-cpu');
    const busy = workers[1]?.metadata.name;
    const reports = await Promise.all(
      workers.map(async (pod) =>
        startPodDeletionCost({
          config: { KUBERNETES_POD: pod.metadata.name, KUBERNETES_API_URL: cluster.plane.url },
          logger: pino({ level: 'silent' }),
          jobs: () => (pod.metadata.name === busy ? 2 : 0),
          accountFolder: (await cluster.mountAccount(pod)).folder,
          intervalMs: 200,
        }),
      ),
    );
    const costs = async () =>
      (await cluster.podsOf(namespace, 'worker-cpu'))
        .map(({ metadata }) => metadata.annotations?.[costAnnotation])
        .sort();
    await expect.poll(costs, { timeout: 60_000 }).toEqual(['0', '0', '0', '2']);
    for (const report of reports) report.stop();
    await cluster.scale(namespace, 'worker-cpu', 1);
    await rolledOut(cluster, namespace);
    const left = await cluster.podsOf(namespace, 'worker-cpu');
    expect(left.map(({ metadata }) => metadata.name)).toEqual([busy]);
  });
});

describe('planted faults', () => {
  test.each([
    ['a privileged container', 'allowPrivilegeEscalation: false', 'privileged: true', /privileged/],
    ['a pod that runs as root', 'runAsNonRoot: true', '', /runAsNonRoot/],
    ['one that keeps capabilities', 'capabilities: .*drop.*', '', /unrestricted capabilities/],
  ])('%s is refused, and the check finds it', async (name, right, wrong, reason) => {
    const namespace = name.replaceAll(' ', '-');
    await cluster.makeNamespace(namespace);
    await cluster.helm(namespace, 'install', ...example('laptop'), ...planted(right, wrong));
    await expect
      .poll(() => refusedPods(cluster, namespace), { timeout: 60_000 })
      .toContainEqual(expect.stringMatching(/violates PodSecurity "restricted/));
    expect(String(await refusedPods(cluster, namespace))).toMatch(reason);
    expect(await cluster.list('Pod', namespace)).toEqual([]);
    await cluster.helm(namespace, 'uninstall');
  });

  test('a RuntimeClass that is not there is found', async () => {
    const namespace = 'missing-runtime';
    await cluster.makeNamespace(namespace);
    const set = ['--set', 'workers.cpu.runtimeClassName=nowhere'];
    await cluster.helm(namespace, 'install', ...example('laptop'), ...set);
    await expect
      .poll(() => refusedPods(cluster, namespace), { timeout: 60_000 })
      .toContainEqual(expect.stringMatching(/RuntimeClass "nowhere" not found/));
    await cluster.helm(namespace, 'uninstall');
  });

  test('a Secret that is not there is found, and helm waits for such pods in vain', async () => {
    const namespace = 'missing-secret';
    await cluster.makeNamespace(namespace);
    const set = ['--set', 'apiKeys.open=false,apiKeys.existingSecret=nowhere'];
    await expect(
      cluster.helm(namespace, 'install', ...example('laptop'), ...set, '--wait', '--timeout=10s'),
    ).rejects.toThrow(/deadline exceeded|not ready|timed out/i);
    expect(await missingInCluster(cluster, namespace)).toEqual(['Secret nowhere keys.json']);
  });
});

/** Puts a fault into what helm rendered, on its way to the API server. */
const planted = (right: string, wrong: string): string[] => [
  ...['--post-renderer', 'sed', '--post-renderer-args', '-E'],
  ...['--post-renderer-args', `s/${right}/${wrong}/`],
];

/** The Secrets that the chart made, and what is in them. */
async function secretsOf(namespace: string): Promise<Record<string, unknown>> {
  const secrets = await cluster.list('Secret', namespace);
  return Object.fromEntries(
    secrets
      .filter(({ metadata }) => metadata.name.startsWith('up-pisa-serve'))
      .map(({ metadata, data }) => [metadata.name, data]),
  );
}

/** The fewest ready pods of each component while it looks. */
function watchReady(
  namespace: string,
  components: string[],
): () => Promise<Record<string, number>> {
  const fewest: Record<string, number> = {};
  let stopped = false;
  const looking = (async () => {
    while (!stopped) {
      for (const component of components) {
        const deployment = await cluster.get('Deployment', namespace, cluster.nameOf(component));
        const { readyReplicas = 0 } = deployment.status;
        fewest[component] = Math.min(fewest[component] ?? readyReplicas, readyReplicas);
      }
      await delay(50);
    }
  })();
  return async () => {
    stopped = true;
    await looking;
    return fewest;
  };
}
