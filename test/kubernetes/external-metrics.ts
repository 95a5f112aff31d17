/** How the API server learns who answers for external metrics, which Kubernetes' autoscaler asks for. */
import { readFileSync } from 'node:fs';
import { type Cluster, hasCondition } from './cluster.ts';

const namespace = 'keda';
const service = 'keda-metrics-apiserver';
const name = 'v1beta1.external.metrics.k8s.io';
const apiServices = '/apis/apiregistration.k8s.io/v1/apiservices';

/** The name that the certificate of that server must have. */
export const metricsHost = `${service}.${namespace}.svc`;

/** As KEDA's manifests do. Resolves when the API server reaches it. */
export async function announceMetrics({ api, plane }: Cluster, port: number): Promise<void> {
  await api.create('/api/v1/namespaces', { metadata: { name: namespace } });
  await api.create(`/api/v1/namespaces/${namespace}/services`, {
    metadata: { name: service },
    spec: { type: 'ExternalName', externalName: 'localhost', ports: [{ port }] },
  });
  await api.create(apiServices, {
    metadata: { name },
    spec: {
      ...{ group: 'external.metrics.k8s.io', version: 'v1beta1' },
      ...{ groupPriorityMinimum: 100, versionPriority: 100 },
      caBundle: readFileSync(plane.authority.file).toString('base64'),
      service: { namespace, name: service, port },
    },
  });
  await api.until(`${apiServices}/${name}`, (object) => hasCondition(object, 'Available'));
}
