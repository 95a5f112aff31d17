/**
 * A real Kubernetes control plane on loopback: etcd, kube-apiserver, kube-controller-manager, from
 * scripts/kubernetes-tools.sh. There is no node, and no container runs: `nodes.ts` plays the kubelets.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { freePort } from '../support/processes.ts';
import { type Authority, makeAuthority, makeKey } from './certificates.ts';
import { KubernetesApi } from './kubernetes-api.ts';
import { Programs } from './programs.ts';
import { tool } from './tools.ts';

export interface ControlPlane {
  readonly api: KubernetesApi;
  readonly url: string;
  /** File for helm and other clients, as administrator. */
  readonly kubeconfig: string;
  /** Of the certificates on loopback. */
  readonly authority: Authority;
  readonly programs: Programs;
  stop(): Promise<void>;
}

/** What the chart's objects need. Not those of nodes, which would mourn ours, as they never report. */
const controllers = [
  'deployment-controller',
  'disruption-controller',
  'endpointslice-controller',
  'garbage-collector-controller',
  'horizontal-pod-autoscaler-controller',
  'namespace-controller',
  'replicaset-controller',
  'root-ca-certificate-publisher-controller',
  'serviceaccount-controller',
  'statefulset-controller',
];

/** Kubernetes' own default: how often the autoscaler decides. */
const defaultHpaSyncSeconds = 15;

export async function startControlPlane(
  hpaSyncSeconds = defaultHpaSyncSeconds,
): Promise<ControlPlane> {
  const programs = new Programs('pisa-kubernetes-');
  try {
    return await start(programs, hpaSyncSeconds);
  } catch (error) {
    await programs.stop();
    throw error;
  }
}

async function start(programs: Programs, hpaSyncSeconds: number): Promise<ControlPlane> {
  const at = (name: string) => programs.at(name);
  const authority = makeAuthority(at('authority'));
  authority.issue(at('server'), 'kube-apiserver', ['kubernetes.default.svc']);
  // Shown by the API server to servers behind it, such as the one of metrics.
  authority.issue(at('proxy'), 'aggregator');
  makeKey(at('accounts.key'));
  const token = randomBytes(24).toString('hex');
  writeFileSync(at('tokens.csv'), `${token},admin,admin,system:masters\n`, { mode: 0o600 });

  const etcd = await startEtcd(programs);
  const port = await freePort();
  const certificate = (folder: string) => path.join(at(folder), 'tls.crt');
  const key = (folder: string) => path.join(at(folder), 'tls.key');
  programs.start('kube-apiserver', tool('kube-apiserver'), [
    ...[`--etcd-servers=${etcd}`, `--secure-port=${port}`, '--bind-address=127.0.0.1'],
    ...['--advertise-address=127.0.0.1', '--endpoint-reconciler-type=none'],
    ...[`--tls-cert-file=${certificate('server')}`, `--tls-private-key-file=${key('server')}`],
    ...['--authorization-mode=RBAC', `--token-auth-file=${at('tokens.csv')}`],
    // So that it is Pod Security, and not this flag, that refuses a privileged container.
    ...['--allow-privileged=true', '--service-cluster-ip-range=10.0.0.0/24'],
    '--service-account-issuer=https://kubernetes.default.svc',
    `--service-account-key-file=${at('accounts.key')}`,
    `--service-account-signing-key-file=${at('accounts.key')}`,
    ...[`--requestheader-client-ca-file=${authority.file}`],
    ...[
      '--requestheader-allowed-names=aggregator',
      '--requestheader-username-headers=X-Remote-User',
    ],
    '--requestheader-group-headers=X-Remote-Group',
    '--requestheader-extra-headers-prefix=X-Remote-Extra-',
    `--proxy-client-cert-file=${certificate('proxy')}`,
    `--proxy-client-key-file=${key('proxy')}`,
  ]);
  const url = `https://127.0.0.1:${port}`;
  const api = new KubernetesApi(url, token, readFileSync(authority.file, 'utf8'));
  await programs.until('kube-apiserver', () => api.isReady());

  const kubeconfig = at('kubeconfig.json');
  const config = configFor(url, token, authority.file);
  writeFileSync(kubeconfig, JSON.stringify(config), { mode: 0o600 });
  const managerPort = await freePort();
  programs.start('kube-controller-manager', tool('kube-controller-manager'), [
    ...[`--kubeconfig=${kubeconfig}`, '--leader-elect=false', `--controllers=${controllers}`],
    ...[`--secure-port=${managerPort}`, '--bind-address=127.0.0.1', `--cert-dir=${at('manager')}`],
    ...[`--root-ca-file=${authority.file}`],
    `--service-account-private-key-file=${at('accounts.key')}`,
    `--horizontal-pod-autoscaler-sync-period=${hpaSyncSeconds}s`,
  ]);
  // It makes the account without which a namespace takes no pod.
  await programs.until('kube-controller-manager', async () => {
    const accounts = await api.list('/api/v1/namespaces/default/serviceaccounts');
    return accounts.some(({ metadata }) => metadata.name === 'default');
  });
  const stop = async () => {
    await api.close();
    await programs.stop();
  };
  return { api, url, kubeconfig, authority, programs, stop };
}

/** @returns its address */
async function startEtcd(programs: Programs): Promise<string> {
  const [client, peer] = [await freePort(), await freePort()];
  const address = `http://127.0.0.1:${client}`;
  programs.start('etcd', tool('etcd'), [
    // What it holds need not outlive the machine.
    ...['--data-dir', programs.at('etcd'), '--log-level', 'warn', '--unsafe-no-fsync'],
    ...['--listen-client-urls', address, '--advertise-client-urls', address],
    ...['--listen-peer-urls', `http://127.0.0.1:${peer}`],
  ]);
  await programs.until('etcd', async () => (await fetch(`${address}/health`)).ok);
  return address;
}

function configFor(server: string, token: string, certificateAuthority: string): object {
  return {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'test',
    clusters: [
      { name: 'test', cluster: { server, 'certificate-authority': certificateAuthority } },
    ],
    users: [{ name: 'admin', user: { token } }],
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'admin' } }],
  };
}
