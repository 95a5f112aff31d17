/** KEDA's own operator and metrics server, from `scripts/kubernetes-tools.sh keda`, on loopback. */
import path from 'node:path';
import { freePort } from '../support/processes.ts';
import type { Cluster } from './cluster.ts';
import { announceMetrics, metricsHost } from './external-metrics.ts';
import { tool } from './tools.ts';

/** Needs KEDA's custom resources. Resolves when Kubernetes' autoscaler can ask it. */
export async function startKeda(cluster: Cluster): Promise<void> {
  const { programs, authority, kubeconfig } = cluster.plane;
  const certificates = programs.at('keda');
  authority.issue(certificates, 'keda', [metricsHost]);
  const env = {
    ...{ KUBECONFIG: kubeconfig, POD_NAMESPACE: 'keda', WATCH_NAMESPACE: '' },
    // Else it asks the files of its pod.
    KEDA_CLUSTER_OBJECT_NAMESPACE: 'keda',
  };

  const [health, metrics] = [await freePort(), await freePort()];
  const operator = [
    ...['--enable-prometheus-metrics=false', `--cert-dir=${certificates}`],
    `--health-probe-bind-address=127.0.0.1:${health}`,
    `--metrics-service-bind-address=127.0.0.1:${metrics}`,
  ];
  programs.start('keda-operator', tool('keda-operator'), operator, env);
  const ready = async () => (await fetch(`http://127.0.0.1:${health}/readyz`)).ok;
  await programs.until('keda-operator', ready);

  const [port, own] = [await freePort(), await freePort()];
  const adapter = [
    ...[`--secure-port=${port}`, '--bind-address=127.0.0.1', `--port=${own}`],
    ...[`--cert-dir=${certificates}`, `--tls-cert-file=${path.join(certificates, 'tls.crt')}`],
    `--tls-private-key-file=${path.join(certificates, 'tls.key')}`,
    `--metrics-service-address=127.0.0.1:${metrics}`,
    ...[`--lister-kubeconfig=${kubeconfig}`, `--authentication-kubeconfig=${kubeconfig}`],
    `--authorization-kubeconfig=${kubeconfig}`,
  ];
  programs.start('keda-adapter', tool('keda-adapter'), adapter, env);
  await announceMetrics(cluster, port);
}
