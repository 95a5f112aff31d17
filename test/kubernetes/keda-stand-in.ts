/**
 * Stands in for KEDA's operator and metrics server, which take longer to build than all the rest (`make test-keda` has
 * them): reads the chart's ScaledObject from the API server, makes the autoscaler of it that KEDA makes, answers that
 * one's questions from the keys, at the address and with the password that the ScaledObject names, and does what KEDA
 * alone does, from no pods to one and back. All decisions between are those of Kubernetes' own autoscaler.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { Cluster } from './cluster.ts';
import { announceMetrics, metricsHost } from './external-metrics.ts';
import type { KubernetesObject } from './kubernetes-api.ts';

const metricName = 'composite-metric';
const groupVersion = 'external.metrics.k8s.io/v1beta1';

interface Trigger {
  name: string;
  metadata: { address: string; databaseIndex: string; listName: string };
  authenticationRef: { name: string };
}

/** @returns a function that ends it */
export async function standInForKeda(
  cluster: Cluster,
  namespace: string,
  name: string,
): Promise<() => Promise<void>> {
  const scaledObject = await cluster.get('ScaledObject', namespace, name);
  const { triggers, advanced, pollingInterval, cooldownPeriod, minReplicaCount } =
    scaledObject.spec;
  const weight = weightOf(advanced.scalingModifiers.formula, triggers);
  const redis = await connect(cluster, namespace, triggers[0]);
  const value = async () => {
    const lengths = triggers.map(({ metadata }: Trigger) => lengthOf(redis, metadata.listName));
    const sum = (await Promise.all(lengths)).reduce((total, length) => total + length, 0);
    return sum * weight;
  };
  const server = await serveMetric(cluster, value);
  await cluster.create('HorizontalPodAutoscaler', namespace, autoscalerOf(scaledObject));

  const target = cluster.path('Deployment', namespace, scaledObject.spec.scaleTargetRef.name);
  let stopped = false;
  let activeAt = Date.now();
  const look = async () => {
    const active = (await value()) > 0;
    if (active) activeAt = Date.now();
    const { replicas } = (await cluster.api.get(target)).spec;
    const cooledDown = Date.now() - activeAt > cooldownPeriod * 1000;
    if (replicas === 0 && active) await cluster.api.patch(target, { spec: { replicas: 1 } });
    if (replicas > 0 && !active && cooledDown) {
      await cluster.api.patch(target, { spec: { replicas: minReplicaCount } });
    }
  };
  const looking = (async () => {
    while (!stopped) {
      await look();
      await delay(pollingInterval * 1000);
    }
  })();
  return async () => {
    stopped = true;
    await looking;
    server.close();
    server.closeAllConnections();
    redis.disconnect();
  };
}

/** As KEDA's `redis` trigger asks, for the two kinds of key that BullMQ uses. */
async function lengthOf(redis: Redis, key: string): Promise<number> {
  return (await redis.type(key)) === 'zset' ? redis.zcard(key) : redis.llen(key);
}

async function connect(cluster: Cluster, namespace: string, trigger: Trigger): Promise<Redis> {
  const { authenticationRef, metadata } = trigger;
  const { spec } = await cluster.get('TriggerAuthentication', namespace, authenticationRef.name);
  const [{ name, key }] = spec.secretTargetRef;
  const { data } = await cluster.get('Secret', namespace, name);
  const [host = '', port] = metadata.address.split(':');
  const password = Buffer.from(data?.[key] ?? '', 'base64').toString();
  return new Redis({ host, port: Number(port), password, db: Number(metadata.databaseIndex) });
}

/** @throws when the formula is not the one that the chart is documented to have */
function weightOf(formula: string, triggers: Trigger[]): number {
  const [, sum = '', weight] = /^\((.+)\) \* ([\d.]+)$/.exec(formula) ?? [];
  const names = triggers.map(({ name }) => name).sort();
  if (String(sum.split(' + ').sort()) !== String(names) || !(Number(weight) > 0)) {
    throw new Error(`Expected (${names.join(' + ')}) * a number but received ${formula}`);
  }
  return Number(weight);
}

/** As KEDA makes it (its controllers/keda/hpa.go). */
function autoscalerOf({ metadata, spec }: KubernetesObject): KubernetesObject {
  const { horizontalPodAutoscalerConfig: config, scalingModifiers } = spec.advanced;
  const selector = { matchLabels: { 'scaledobject.keda.sh/name': metadata.name } };
  return {
    metadata: { name: config.name },
    spec: {
      scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: spec.scaleTargetRef.name },
      minReplicas: Math.max(1, spec.minReplicaCount),
      maxReplicas: spec.maxReplicaCount,
      behavior: config.behavior,
      metrics: [
        {
          type: 'External',
          external: {
            metric: { name: metricName, selector },
            target: {
              type: scalingModifiers.metricType,
              averageValue: scalingModifiers.target,
            },
          },
        },
      ],
    },
  };
}

async function serveMetric(cluster: Cluster, value: () => Promise<number>) {
  const folder = cluster.plane.programs.at('metrics');
  cluster.plane.authority.issue(folder, 'metrics', [metricsHost]);
  const [cert, key] = ['tls.crt', 'tls.key'].map((name) => readFileSync(path.join(folder, name)));
  const server = createServer({ cert, key }, async (request, response) => {
    const answer = request.url?.includes('/namespaces/') ? metricList(await value()) : resources;
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  await announceMetrics(cluster, (server.address() as AddressInfo).port);
  return server;
}

const resources = {
  kind: 'APIResourceList',
  apiVersion: 'v1',
  groupVersion,
  resources: [
    { name: metricName, namespaced: true, kind: 'ExternalMetricValueList', verbs: ['get'] },
  ],
};

const metricList = (value: number) => ({
  kind: 'ExternalMetricValueList',
  apiVersion: groupVersion,
  metadata: {},
  items: [
    {
      metricName,
      metricLabels: {},
      timestamp: new Date().toISOString(),
      value: `${Math.round(value * 1000)}m`,
    },
  ],
});
