/** A control plane with helm, seen by kinds and namespaces: what the tests of releases share. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect } from 'vitest';
import { parse } from 'yaml';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { chart, helmOn, parseObjects } from './helm.ts';
import type { KubernetesApi, KubernetesObject } from './kubernetes-api.ts';

/** Every release of the tests. */
const release = 'up';

/** A kind that the API server knows. */
export interface Resource {
  kind: string;
  /** `/apis/apps/v1`. */
  group: string;
  /** `deployments`. */
  plural: string;
  namespaced: boolean;
}

export class Cluster {
  readonly plane: ControlPlane;
  /** In the version of each group that the server prefers, and only what it can list. */
  resources: Resource[] = [];

  private constructor(plane: ControlPlane) {
    this.plane = plane;
  }

  /** Without custom resources. */
  static async start(hpaSyncSeconds?: number): Promise<Cluster> {
    const cluster = new Cluster(await startControlPlane(hpaSyncSeconds));
    cluster.resources = await discover(cluster.api);
    return cluster;
  }

  get api(): KubernetesApi {
    return this.plane.api;
  }

  /** Adds custom resources. */
  async addDefinitions(files: string[]): Promise<void> {
    const definitions = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
    for (const file of files) {
      const definition = parse(readFileSync(file, 'utf8')) as KubernetesObject;
      await this.api.create(definitions, definition);
      await this.api.until(`${definitions}/${definition.metadata.name}`, (object) =>
        hasCondition(object, 'Established'),
      );
    }
    this.resources = await discover(this.api);
  }

  /** Where the objects of a kind are; with a name, where that one is. */
  path(kind: string, namespace: string, name?: string): string {
    const found = this.resources.find((resource) => resource.kind === kind);
    if (!found) throw new Error(`The API server does not know the kind ${kind}.`);
    const place = found.namespaced ? `/namespaces/${namespace}` : '';
    return `${found.group}${place}/${found.plural}${name === undefined ? '' : `/${name}`}`;
  }

  get(kind: string, namespace: string, name: string): Promise<KubernetesObject> {
    return this.api.get(this.path(kind, namespace, name));
  }

  async list(kind: string, namespace: string): Promise<KubernetesObject[]> {
    const objects = await this.api.list(this.path(kind, namespace));
    return objects.map((object) => ({ ...object, kind }));
  }

  create(kind: string, namespace: string, object: KubernetesObject): Promise<KubernetesObject> {
    return this.api.create(this.path(kind, namespace), object);
  }

  /** One in which only pods of the restricted standard may be. */
  async makeNamespace(name: string): Promise<void> {
    const labels = { 'pod-security.kubernetes.io/enforce': 'restricted' };
    await this.api.create('/api/v1/namespaces', { metadata: { name, labels } });
    // Pods are refused until the namespace has its account.
    await this.api.until(this.path('ServiceAccount', name, 'default'), () => true);
  }

  /**
   * Runs a command of helm on the release of a namespace: `install` and `upgrade` of the chart.
   * @throws what helm prints, when it fails
   */
  helm(namespace: string, command: string, ...args: string[]): Promise<string> {
    const what = ['install', 'upgrade'].includes(command) ? [release, chart] : [release];
    const where = ['--namespace', namespace];
    return helmOn(this.plane.kubeconfig, ...command.split(' '), ...what, ...args, ...where);
  }

  /** What helm was told to make. */
  async manifest(namespace: string, ...args: string[]): Promise<KubernetesObject[]> {
    return parseObjects(await this.helm(namespace, 'get manifest', ...args));
  }

  async hooks(namespace: string): Promise<KubernetesObject[]> {
    return parseObjects(await this.helm(namespace, 'get hooks'));
  }

  /** The name of the release's Deployment or other object of a component. */
  nameOf(component: string): string {
    return `${release}-pisa-serve-${component}`;
  }

  async scale(namespace: string, component: string, replicas: number): Promise<void> {
    const deployment = this.path('Deployment', namespace, this.nameOf(component));
    await this.api.patch(deployment, { spec: { replicas } });
  }

  /** The pods of a component that are not on their way out. */
  async podsOf(namespace: string, component: string): Promise<KubernetesObject[]> {
    const pods = await this.list('Pod', namespace);
    return pods.filter(
      ({ metadata }) =>
        !metadata.deletionTimestamp &&
        metadata.labels?.['app.kubernetes.io/component'] === component,
    );
  }

  /**
   * What Kubernetes mounts into a worker's pod: a token that is bound to it, its namespace, and the authority of the
   * API server.
   * @returns the folder, and the token
   */
  async mountAccount({ metadata }: KubernetesObject): Promise<{ folder: string; token: string }> {
    const { name, uid, namespace = '' } = metadata;
    const account = this.path('ServiceAccount', namespace, this.nameOf('worker'));
    const boundObjectRef = { apiVersion: 'v1', kind: 'Pod', name, uid };
    const { status } = await this.api.create(`${account}/token`, { spec: { boundObjectRef } });
    const authority = await this.get('ConfigMap', namespace, 'kube-root-ca.crt');
    const folder = this.plane.programs.at(`account-${name}`);
    mkdirSync(folder, { recursive: true });
    const files = { token: status.token, namespace, ...authority.data };
    for (const [file, content] of Object.entries(files)) {
      writeFileSync(path.join(folder, file), content);
    }
    return { folder, token: status.token };
  }

  stop(): Promise<void> {
    return this.plane.stop();
  }
}

export const hasCondition = ({ status }: KubernetesObject, type: string): boolean =>
  (status?.conditions ?? []).some(
    (condition: { type: string; status: string }) =>
      condition.type === type && condition.status === 'True',
  );

async function discover(api: KubernetesApi): Promise<Resource[]> {
  const { groups } = (await api.get('/apis')) as unknown as {
    groups: { preferredVersion: { groupVersion: string } }[];
  };
  const preferred = groups.map(({ preferredVersion }) => `/apis/${preferredVersion.groupVersion}`);
  const lists = ['/api/v1', ...preferred].map(async (group) => {
    const { resources } = (await api.get(group)) as unknown as {
      resources: { name: string; kind: string; namespaced: boolean; verbs: string[] }[];
    };
    return resources
      .filter(({ verbs }) => verbs.includes('list'))
      .map(({ name, kind, namespaced }) => ({ kind, group, plural: name, namespaced }));
  });
  return (await Promise.all(lists)).flat();
}

/** Asserts that every object of the release is in the cluster with all that helm was told to give it. */
export async function expectAllThere(
  cluster: Cluster,
  namespace: string,
): Promise<KubernetesObject[]> {
  const objects = await cluster.manifest(namespace);
  for (const object of objects) {
    const { kind = '', metadata } = object;
    const there = await cluster.get(kind, namespace, metadata.name);
    expect.soft(there, `${kind} ${metadata.name}`).toMatchObject(object);
  }
  return objects;
}
