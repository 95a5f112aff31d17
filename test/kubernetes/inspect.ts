/** What has to hold of a release in a cluster, whatever its values. Each function lists what does not. */
import type { Cluster } from './cluster.ts';
import type { KubernetesObject } from './kubernetes-api.ts';
import { missingNeeds } from './pod-needs.ts';

const workloadKinds = ['StatefulSet', 'Deployment'];
const neededKinds = ['Secret', 'ConfigMap', 'PersistentVolumeClaim', 'ServiceAccount'];

/** What pods of a namespace need and what is not there, by the objects that are in the cluster. */
export async function missingInCluster(cluster: Cluster, namespace: string): Promise<string[]> {
  const kinds = [...workloadKinds, ...neededKinds];
  const lists = await Promise.all(kinds.map((kind) => cluster.list(kind, namespace)));
  return missingNeeds(lists.flat());
}

/** Why pods of a namespace were not made, in the words of the API server: Pod Security, quotas. */
export async function refusedPods(cluster: Cluster, namespace: string): Promise<string[]> {
  const events = await cluster.api.list(`/api/v1/namespaces/${namespace}/events`);
  return (events as unknown as { reason: string; message: string }[])
    .filter(({ reason }) => reason === 'FailedCreate')
    .map(({ message }) => message);
}

/** All pods of the newest version are there and ready, and no others. */
function isRolledOut({ metadata, spec, status }: KubernetesObject): boolean {
  const { replicas = 0, readyReplicas = 0, updatedReplicas = 0, observedGeneration } = status;
  const all = [replicas, readyReplicas, updatedReplicas].every((count) => count === spec.replicas);
  return observedGeneration === metadata.generation && all;
}

/**
 * Waits until every workload of a namespace is rolled out.
 * @returns how many pods each has
 */
export async function rolledOut(
  cluster: Cluster,
  namespace: string,
): Promise<Record<string, number>> {
  const pods: Record<string, number> = {};
  for (const kind of workloadKinds) {
    for (const { metadata } of await cluster.list(kind, namespace)) {
      const path = cluster.path(kind, namespace, metadata.name);
      const { spec } = await cluster.api.until(path, isRolledOut);
      pods[metadata.name] = spec.replicas;
    }
  }
  return pods;
}

/** What is in a namespace, but for what Kubernetes puts into each. */
export async function leftIn(cluster: Cluster, namespace: string): Promise<string[]> {
  const kinds = cluster.resources.filter(({ namespaced, kind }) => namespaced && kind !== 'Event');
  const lists = await Promise.all(kinds.map(({ kind }) => cluster.list(kind, namespace)));
  const own = ['ServiceAccount default', 'ConfigMap kube-root-ca.crt'];
  return lists
    .flat()
    .map(({ kind, metadata }) => `${kind} ${metadata.name}`)
    .filter((object) => !own.includes(object))
    .sort();
}

/** The pods that each Service sends requests to. */
export async function readyEndpoints(
  cluster: Cluster,
  namespace: string,
): Promise<Record<string, number>> {
  const ready: Record<string, number> = {};
  for (const slice of await cluster.list('EndpointSlice', namespace)) {
    const service = slice.metadata.labels?.['kubernetes.io/service-name'] ?? '';
    const { endpoints } = slice as unknown as { endpoints: { conditions: { ready: boolean } }[] };
    const count = (endpoints ?? []).filter(({ conditions }) => conditions.ready).length;
    ready[service] = (ready[service] ?? 0) + count;
  }
  return ready;
}
