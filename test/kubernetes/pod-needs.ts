/** What the pods and the Ingress of a release need, besides what the release brings. */
import type { KubernetesObject } from './kubernetes-api.ts';

/**
 * Secrets, ConfigMaps and claims that a pod needs and that neither the release nor `there` has: a kubelet would
 * wait for them for ever.
 * @param there `Kind name`, or `Kind name key`, of what is in the namespace beforehand
 */
export function missingNeeds(objects: KubernetesObject[], there: string[] = []): string[] {
  const has = new Set(there);
  for (const { kind, metadata, data } of objects) {
    has.add(`${kind} ${metadata.name}`);
    for (const key of Object.keys(data ?? {})) has.add(`${kind} ${metadata.name} ${key}`);
  }
  const needs = objects.flatMap(({ kind, spec }) =>
    kind === 'Ingress' ? certificatesOf(spec) : needsOf(spec?.template?.spec),
  );
  return [...new Set(needs)].filter((need) => !has.has(need)).sort();
}

const certificatesOf = (spec: KubernetesObject['spec']): string[] =>
  (spec.tls ?? []).map(({ secretName }: { secretName: string }) => `Secret ${secretName} tls.crt`);

// biome-ignore lint/suspicious/noExplicitAny: the spec of a pod, whose fields `admit` has checked.
function needsOf(pod: any): string[] {
  if (!pod) return [];
  const needs: string[] = [];
  for (const container of [...(pod.initContainers ?? []), ...pod.containers]) {
    for (const { valueFrom } of container.env ?? []) {
      const { secretKeyRef: secret, configMapKeyRef: config } = valueFrom ?? {};
      if (secret) needs.push(`Secret ${secret.name} ${secret.key}`);
      if (config) needs.push(`ConfigMap ${config.name} ${config.key}`);
    }
  }
  for (const { secret, configMap, persistentVolumeClaim: claim } of pod.volumes ?? []) {
    for (const { key } of secret?.items ?? []) needs.push(`Secret ${secret.secretName} ${key}`);
    if (configMap) needs.push(`ConfigMap ${configMap.name}`);
    if (claim) needs.push(`PersistentVolumeClaim ${claim.claimName}`);
  }
  for (const { name } of pod.imagePullSecrets ?? []) needs.push(`Secret ${name}`);
  if (pod.serviceAccountName) needs.push(`ServiceAccount ${pod.serviceAccountName}`);
  return needs;
}
