/**
 * The chart without a cluster: helm's lint, every example through Kubernetes' own decoding and Pod Security checks, and
 * faults that these must catch. The custom resources are held against the definitions of KEDA and the Prometheus operator.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseQuery } from '../observability/promql.ts';
import { definitionFiles } from './definitions.ts';
import {
  admit,
  chart,
  forVersion,
  helm,
  parseObjects,
  render,
  renderNotes,
  renderText,
  valuesFiles,
} from './helm.ts';
import type { KubernetesObject } from './kubernetes-api.ts';
import { missingNeeds } from './pod-needs.ts';

let folder: string;
let definitions: string[];
beforeAll(async () => {
  definitions = await definitionFiles();
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-values-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const find = (objects: KubernetesObject[], kind: string, name: string) =>
  objects.find((object) => object.kind === kind && object.metadata.name === name);

/** The environment of a Deployment's container; references as their path. */
const environment = (object: KubernetesObject | undefined): Record<string, string | undefined> =>
  Object.fromEntries(
    object?.spec.template.spec.containers[0].env.map(
      ({ name, value }: { name: string; value?: string }) => [name, value],
    ) ?? [],
  );

const read = (name: string): string =>
  readFileSync(path.resolve(import.meta.dirname, name), 'utf8');
const page = read('../../docs/kubernetes.md');

/** What docs/kubernetes.md says to make before the release; a test below looks for it there. */
const beforehand: Record<string, string[]> = {
  'values-production.yaml': [
    'PersistentVolumeClaim upscale-models',
    'Secret registry',
    'Secret upscale-api-keys keys.json',
    'Secret upscale-redis redis-password',
    'Secret upscale-redis-ca ca.crt',
    'Secret upscale-s3 access-key-id',
    'Secret upscale-s3 secret-access-key',
    'Secret upscale-tls tls.crt',
    'Secret upscale-webhooks webhook-secret',
  ],
};

test('the page names all that is to be made beforehand', () => {
  const commands = page.matchAll(/create secret (\S+) (\S+)/g);
  const secrets = [...commands].map(([, , name]) => `Secret ${name}`);
  const claims = [...page.matchAll(/PersistentVolumeClaim\nmetadata: \{ name: ([\w-]+)/g)].map(
    ([, name]) => `PersistentVolumeClaim ${name}`,
  );
  const needed = Object.values(beforehand).flat();
  const names = needed.map((need) => need.split(' ').slice(0, 2).join(' '));
  expect([...secrets, ...claims].sort()).toEqual([...new Set(names)].sort());
});

test('every example of values in the page is accepted', async () => {
  const examples = [...page.matchAll(/```yaml\n(.*?)```/gs)].map(([, yaml]) => yaml ?? '');
  const values = examples.filter((yaml) => !yaml.startsWith('apiVersion'));
  expect(values.length).toBeGreaterThan(1);
  for (const [index, yaml] of values.entries()) {
    const file = path.join(folder, `page-${index}.yaml`);
    writeFileSync(file, yaml);
    const rendered = await renderText('--values', file);
    expect(await admit(rendered, definitions), yaml).toMatch(/^\d+ objects would be accepted$/);
  }
});

test('every object that the page makes by hand is accepted', async () => {
  const examples = [...page.matchAll(/```yaml\n(apiVersion.*?)```/gs)].map(
    ([, yaml]) => yaml ?? '',
  );
  expect(examples.length).toBeGreaterThan(1);
  const said = await admit(examples.join('---\n'), definitions);
  expect(said).toBe(`${examples.length} objects would be accepted`);
});

describe.each(valuesFiles)('%s', (file) => {
  test('helm finds no fault', async () => {
    await helm('lint', '--strict', ...forVersion, chart, '--values', path.join(chart, file));
  });

  test('Kubernetes accepts every object, and every pod where only restricted ones may be', async () => {
    const yaml = await renderText('--values', path.join(chart, file));
    expect(await admit(yaml, definitions)).toMatch(/^\d+ objects would be accepted$/);
  });

  test('pods need nothing that is not there or made beforehand', async () => {
    const objects = await render('--values', path.join(chart, file));
    expect(missingNeeds(objects)).toEqual(beforehand[file] ?? []);
  });

  test('no setting is given twice, and every object has the labels of the release', async () => {
    const objects = await render('--values', path.join(chart, file));
    expect(objects.length).toBeGreaterThan(8);
    for (const { kind, metadata, spec } of objects) {
      expect(metadata.labels, `${kind} ${metadata.name}`).toMatchObject({
        'app.kubernetes.io/name': 'pisa-serve',
        'app.kubernetes.io/instance': 'up',
      });
      for (const { env = [] } of spec?.template?.spec.containers ?? []) {
        const names = env.map(({ name }: { name: string }) => name);
        expect(names, `${kind} ${metadata.name}`).toEqual([...new Set(names)]);
      }
    }
  });
});

describe('values that helm refuses, and says where', () => {
  test.each([
    ['a text for a number', 'api: { replicas: many }', /api.replicas.*got string, want integer/s],
    ['a number for a switch', 'apiKeys: { open: 1 }', /apiKeys.open.*got number, want boolean/s],
    ['a value that does not exist', 'worker: {}', /additional properties 'worker' not allowed/],
    [
      'a setting that does not exist',
      'config: { MAX_QUEUE: 5 }',
      /config.*propertyNames|MAX_QUEUE/s,
    ],
    ['a setting that another value governs', 'config: { REDIS_URL: x }', /REDIS_URL/],
    ['an unknown way to scale', 'workerDefaults: { scaling: { mode: magic } }', /scaling.mode/],
    ['a class with a faulty value', 'workers: { a100: { gpus: two } }', /a100.gpus/],
    [
      'an external Redis without a host',
      'redis: { internal: { enabled: false } }',
      /redis.external.host is needed/,
    ],
    [
      'a volume that Redis would fill',
      'redis: { internal: { size: 8Gi } }',
      /size \(8Gi\) must be at least four times .*maxMemory \(3gb\).* 12288Mi or more.* 2048mb or less.*"A larger volume for Redis"/s,
    ],
    [
      'a Redis without a limit of memory',
      'redis: { internal: { maxMemory: "0" } }',
      /redis.internal.maxMemory.*does not match/s,
    ],
    [
      'a Redis that the kernel would end while it rewrites its file',
      'redis: { internal: { resources: { limits: { memory: 4Gi } } } }',
      /limits.memory \(4Gi\) must be at least one and a half times .*maxMemory \(3gb\).* 4608Mi or more.* 2730mb or less/s,
    ],
    ['S3 without a bucket', 'storage: { kind: s3 }', /storage.s3.bucket is needed/],
    [
      'S3 in the cluster, to which no policy opens the way',
      'storage: { kind: s3, s3: { bucket: b, endpoint: "http://minio.storage.svc:9000" } }',
      /endpoint \(http:\/\/minio.storage.svc:9000\) is no public address.* networkPolicy.storageRanges/s,
    ],
    [
      'S3 in the cluster, to which the API alone has a way',
      `{ storage: { kind: s3, s3: { bucket: b, endpoint: "https://minio" } },
        networkPolicy: { apiEgress: [{ ports: [{ port: 443 }] }] } }`,
      /endpoint \(https:\/\/minio\) is no public address/,
    ],
    ...['http://MinIO.storage.SVC:9000', 'http://[fd00::5]:9000', 'http://100.64.1.2:9000'].map(
      (endpoint): [string, string, RegExp] => [
        `S3 at ${endpoint}`,
        `storage: { kind: s3, s3: { bucket: b, endpoint: "${endpoint}" } }`,
        /is no public address/,
      ],
    ),
    [
      'a model of a private address',
      `models: { download: [{ url: "https://172.20.0.9/x", sha256: "${'0'.repeat(64)}" }] }`,
      /models.download \(https:\/\/172.20.0.9\/x\) is no public address.* networkPolicy.storageRanges/s,
    ],
    [
      'a GPU that nobody asks for',
      'workers: { a100: { devices: "cuda:0" } }',
      /workers.a100.devices \(cuda:0\) needs gpus: 1, but workers.a100.gpus is 0/,
    ],
    [
      'fewer GPUs than devices, although the RuntimeClass is named',
      'workers: { a100: { devices: "cpu,cuda:0,cuda:1", gpus: 1, runtimeClassName: nvidia } }',
      /needs gpus: 2, but workers.a100.gpus is 1/,
    ],
    [
      'a number that the only GPU of a pod does not have',
      'workers: { a100: { devices: "cuda:3", gpus: 1 } }',
      /needs gpus: 4, but workers.a100.gpus is 1/,
    ],
    [
      'a target of waits that no bucket of the metric has',
      'monitoring: { queueWaitTargetSeconds: 45 }',
      /queueWaitTargetSeconds/,
    ],
    [
      'a model without its digest',
      'models: { download: [{ url: "https://example.com/x" }] }',
      /sha256/,
    ],
  ])('%s', async (_name, values, message) => {
    const file = path.join(folder, 'values.yaml');
    writeFileSync(file, values);
    await expect(render('--values', file)).rejects.toThrow(message);
  });
});

test('a class of workers has what the defaults say unless it says otherwise, zero and false included', async () => {
  const file = path.join(folder, 'values.yaml');
  writeFileSync(
    file,
    `
workerDefaults: { replicas: 3, scaling: { mode: fixed, minReplicas: 2 }, config: { JOBS_PER_DEVICE: 4 } }
workers:
  cpu: { enabled: false }
  a100: { devices: "cuda:0,cuda:1", gpus: 2, config: { LOG_LEVEL: debug } }
  l4: { devices: cuda:0, gpus: 1, scaling: { mode: keda, minReplicas: 0 }, podDisruptionBudget: { enabled: false } }
config: { LOG_LEVEL: warn, MAX_UPLOAD_BYTES: 100000000 }
`,
  );
  const objects = await render('--values', file);
  expect(find(objects, 'Deployment', 'up-pisa-serve-worker-cpu')).toBeUndefined();
  const a100 = find(objects, 'Deployment', 'up-pisa-serve-worker-a100');
  expect(a100?.spec.replicas).toBe(3);
  expect(a100?.spec.template.spec.containers[0].resources.limits['nvidia.com/gpu']).toBe('2');
  expect(environment(a100)).toMatchObject({
    DEVICES: 'cuda:0,cuda:1',
    JOBS_PER_DEVICE: '4',
    LOG_LEVEL: 'debug',
    MAX_UPLOAD_BYTES: '100000000',
  });
  expect(find(objects, 'Deployment', 'up-pisa-serve-worker-l4')?.spec.replicas).toBeUndefined();
  const scaler = find(objects, 'ScaledObject', 'up-pisa-serve-worker-l4');
  expect(scaler?.spec.minReplicaCount).toBe(0);
  expect(find(objects, 'PodDisruptionBudget', 'up-pisa-serve-worker-l4')).toBeUndefined();
  expect(find(objects, 'ScaledObject', 'up-pisa-serve-worker-a100')).toBeUndefined();
});

test.each([
  [{ gpus: 1, gpuResource: 'nvidia.com/mig-1g.10gb' }, { 'nvidia.com/mig-1g.10gb': '1' }],
  [{ gpus: 1, gpuResource: 'nvidia.com/gpu.shared' }, { 'nvidia.com/gpu.shared': '1' }],
  // What asks for a GPU elsewhere, or shows a pod all of them, is taken for meant.
  [{ resources: { limits: { 'example.com/gpu': 1 } } }, { 'example.com/gpu': 1 }],
  [{ runtimeClassName: 'nvidia' }, {}],
])('a class with %j asks for the GPU %j', async (values, resources) => {
  const file = path.join(folder, 'values.yaml');
  writeFileSync(file, JSON.stringify({ workers: { a: { devices: 'cuda:0', ...values } } }));
  const yaml = await renderText('--values', file);
  expect(await admit(yaml, definitions)).toMatch(/^\d+ objects would be accepted$/);
  const worker = find(parseObjects(yaml), 'Deployment', 'up-pisa-serve-worker-a');
  const { limits } = worker?.spec.template.spec.containers[0].resources ?? {};
  expect(limits).toEqual({ cpu: '2', memory: '4Gi', ...resources });
});

test('a roll-out takes a quarter of the workers at a time, and with GPUs makes room for them first', async () => {
  const objects = await render('--set', 'workers.gpu.enabled=true');
  const rollingUpdate = (name: string) =>
    find(objects, 'Deployment', `up-pisa-serve-worker-${name}`)?.spec.strategy.rollingUpdate;
  expect(rollingUpdate('cpu')).toEqual({ maxUnavailable: 0, maxSurge: '25%' });
  expect(rollingUpdate('gpu')).toEqual({ maxUnavailable: '25%', maxSurge: 0 });
});

test('a class has one autoscaler, of a name that KEDA does not give and with a note that lets KEDA follow', async () => {
  const objects = await render('--set', 'workers.cpu.scaling.mode=hpa,workers.gpu.enabled=true');
  const scaler = find(objects, 'HorizontalPodAutoscaler', 'up-pisa-serve-hpa-cpu');
  expect(scaler?.spec.scaleTargetRef.name).toBe('up-pisa-serve-worker-cpu');
  // By KEDA's webhook, verifyHpas, since 2.14.
  expect(scaler?.metadata.annotations).toEqual({ 'validations.keda.sh/hpa-ownership': 'false' });
  const { advanced } = find(objects, 'ScaledObject', 'up-pisa-serve-worker-gpu')?.spec ?? {};
  expect(advanced.horizontalPodAutoscalerConfig.name).toBe('up-pisa-serve-worker-gpu');
  expect(find(objects, 'ScaledObject', 'up-pisa-serve-worker-cpu')).toBeUndefined();
});

test('the API may take the room of others, workers may not, and another number is another class', async () => {
  const file = path.join(folder, 'values.yaml');
  const classes = async (numbers: object = {}) => {
    writeFileSync(file, JSON.stringify({ priorityClasses: { create: true, ...numbers } }));
    const yaml = await renderText('--values', file);
    expect(await admit(yaml, definitions)).toMatch(/^\d+ objects would be accepted$/);
    const objects = parseObjects(yaml);
    const users = ['Deployment api', 'StatefulSet redis', 'Deployment worker-cpu'].map((user) => {
      const [kind = '', name] = user.split(' ');
      return find(objects, kind, `up-pisa-serve-${name}`)?.spec.template.spec.priorityClassName;
    });
    return users.map((name) => {
      const { value, preemptionPolicy } = (find(objects, 'PriorityClass', name) ?? {}) as {
        value?: number;
        preemptionPolicy?: string;
      };
      return [name, value, preemptionPolicy];
    });
  };
  const api = ['photos-up-pisa-serve-api-100000', 100_000, undefined];
  const worker = ['photos-up-pisa-serve-worker-1000', 1000, 'Never'];
  expect(await classes()).toEqual([api, api, worker]);
  const others = await classes({ api: 2_000_000, worker: -5 });
  expect(others.map(([name, value]) => `${name} ${value}`)).toEqual([
    ...Array(2).fill('photos-up-pisa-serve-api-2000000 2000000'),
    'photos-up-pisa-serve-worker--5 -5',
  ]);
});

test('all pods have the labels that are said for all', async () => {
  const file = path.join(folder, 'values.yaml');
  writeFileSync(file, 'pod: { labels: { team: photos } }\nworkers: { gpu: { enabled: true } }');
  const yaml = await renderText('--values', file);
  expect(await admit(yaml, definitions)).toMatch(/^\d+ objects would be accepted$/);
  const labels = parseObjects(yaml).flatMap(({ kind, metadata, spec }) => {
    if (kind === 'Pod') return [[metadata.name, metadata.labels?.team]];
    return spec?.template ? [[metadata.name, spec.template.metadata.labels.team]] : [];
  });
  expect(Object.fromEntries(labels)).toEqual({
    'up-pisa-serve-api': 'photos',
    'up-pisa-serve-redis': 'photos',
    'up-pisa-serve-test': 'photos',
    'up-pisa-serve-worker-cpu': 'photos',
    'up-pisa-serve-worker-gpu': 'photos',
  });
});

test('numbers of `config` reach the pods as they were written', async () => {
  const file = path.join(folder, 'values.yaml');
  writeFileSync(
    file,
    `
config: { OTEL_TRACES_SAMPLER_ARG: 0.1, MAX_INPUT_PIXELS: 67108864, RESULT_CACHE: false, LOG_LEVEL: "1.0" }
api: { config: { WEBHOOK_RETRY_SECONDS: 0.5 } }
workerDefaults: { config: { DEVICE_MEMORY_GIGABYTES: 7.5, MAX_OUTPUT_PIXELS: 1073741824 } }
`,
  );
  const objects = await render('--values', file);
  const shared = {
    OTEL_TRACES_SAMPLER_ARG: '0.1',
    MAX_INPUT_PIXELS: '67108864',
    RESULT_CACHE: 'false',
    LOG_LEVEL: '1.0',
  };
  expect(environment(find(objects, 'Deployment', 'up-pisa-serve-api'))).toMatchObject({
    ...shared,
    WEBHOOK_RETRY_SECONDS: '0.5',
  });
  expect(environment(find(objects, 'Deployment', 'up-pisa-serve-worker-cpu'))).toMatchObject({
    ...shared,
    DEVICE_MEMORY_GIGABYTES: '7.5',
    MAX_OUTPUT_PIXELS: '1073741824',
  });
});

test('a worker has as much time to end as a job may take, and uses it', async () => {
  const objects = await render('--set', 'jobTimeoutSeconds=120');
  const worker = find(objects, 'Deployment', 'up-pisa-serve-worker-cpu');
  expect(environment(worker)).toMatchObject({
    JOB_TIMEOUT_SECONDS: '120',
    SHUTDOWN_GRACE_SECONDS: '120',
  });
  expect(worker?.spec.template.spec.terminationGracePeriodSeconds).toBe(140);
});

/** Megabytes for the devices of a class with a memory limit, as a worker is told. */
const deviceMegabytes = async (...set: string[]): Promise<string | undefined> => {
  const objects = await render(...set.flatMap((value) => ['--set', value]));
  return environment(find(objects, 'Deployment', 'up-pisa-serve-worker-cpu'))
    .DEVICE_MAX_RSS_MEGABYTES;
};
const memoryLimit = 'workers.cpu.resources.limits.memory';

test.each([
  ['10Gi', [], '9126'],
  ['500M', [], '425'],
  ['2e9', [], '1700'],
  ['4000000000', ['workers.cpu.devices=cpu\\,cuda:0', 'workers.cpu.gpus=1'], '1700'],
  ['128Mi', [], '256'],
  ['10Gi', ['config.DEVICE_MAX_RSS_MEGABYTES=700'], '700'],
  ['10Gi', ['workers.cpu.config.DEVICE_MAX_RSS_MEGABYTES=800'], '800'],
])(
  'with a memory limit of %s and %j, device processes are replaced above %s MB',
  async (limit, set, expected) => {
    expect(await deviceMegabytes(`${memoryLimit}=${limit}`, ...set)).toBe(expected);
  },
);

test('without a memory limit the setting keeps its own default', async () => {
  expect(await deviceMegabytes('workerDefaults.resources.limits.memory=null')).toBeUndefined();
});

test('the large model of values-production.yaml fits into its CPU workers', async () => {
  const objects = await render('--values', path.join(chart, 'values-production.yaml'));
  const worker = environment(find(objects, 'Deployment', 'up-pisa-serve-worker-cpu'));
  // The default of MODEL_MEMORY_MEGABYTES, and what docs/models.md says that Stable Diffusion counts.
  expect(0.75 * Number(worker.DEVICE_MAX_RSS_MEGABYTES)).toBeGreaterThan(10_700);
});

test('the image of a class follows the version of the others', async () => {
  const set = ['--set', 'workers.gpu.enabled=true,image.tag=9.9.9,image.repository=here/it'];
  const worker = find(await render(...set), 'Deployment', 'up-pisa-serve-worker-gpu');
  expect(worker?.spec.template.spec.containers[0].image).toBe('here/it:9.9.9-cuda');
  const own = find(
    await render(...set, '--set', 'workers.gpu.image.tag=mine'),
    'Deployment',
    'up-pisa-serve-worker-gpu',
  );
  expect(own?.spec.template.spec.containers[0].image).toBe('here/it:mine');
});

test('one file of private authorities is trusted by API, workers and downloads', async () => {
  const production = path.join(chart, 'values-production.yaml');
  const objects = await render('--values', production, '--set', 'extraCa.secret=company');
  for (const name of ['api', 'worker-cpu']) {
    const pod = find(objects, 'Deployment', `up-pisa-serve-${name}`)?.spec.template.spec;
    expect(pod.volumes).toContainEqual({
      name: 'extra-ca',
      secret: { secretName: 'company', items: [{ key: 'ca.crt', path: 'ca.crt' }] },
    });
    for (const container of [...(pod.initContainers ?? []), ...pod.containers]) {
      const mount = { name: 'extra-ca', mountPath: '/etc/pisa/extra-ca', readOnly: true };
      expect(container.volumeMounts).toContainEqual(mount);
      const variable = { name: 'NODE_EXTRA_CA_CERTS', value: '/etc/pisa/extra-ca/ca.crt' };
      expect(container.env).toContainEqual(variable);
    }
  }
});

test('KEDA trusts the authority of Redis, wherever it is named', async () => {
  const production = ['--values', path.join(chart, 'values-production.yaml')];
  const authority = async (...set: string[]) => {
    const all = set.flatMap((value) => ['--set', value]);
    const objects = await render(...production, ...all);
    const { secretTargetRef } =
      find(objects, 'TriggerAuthentication', 'up-pisa-serve-redis')?.spec ?? {};
    return secretTargetRef.find(({ parameter }: { parameter: string }) => parameter === 'ca')?.name;
  };
  expect(await authority('extraCa.secret=company')).toBe('upscale-redis-ca');
  expect(await authority('extraCa.secret=company', 'redis.external.tls.caSecret=')).toBe('company');
  expect(await authority('redis.external.tls.caSecret=')).toBeUndefined();
});

test.each([
  ['a password and an authority', [], ['password upscale-redis', 'ca upscale-redis-ca']],
  ['an authority alone', ['existingSecret='], ['ca upscale-redis-ca']],
  ['a password alone', ['tls.caSecret='], ['password upscale-redis']],
  ['neither', ['existingSecret=', 'tls.caSecret='], undefined],
])('KEDA is given what Redis asks for: %s', async (_name, set, expected) => {
  const production = path.join(chart, 'values-production.yaml');
  const external = set.flatMap((value) => ['--set', `redis.external.${value}`]);
  const yaml = await renderText('--values', production, ...external);
  expect(await admit(yaml, definitions)).toMatch(/^\d+ objects would be accepted$/);
  const objects = parseObjects(yaml);
  const references = find(objects, 'TriggerAuthentication', 'up-pisa-serve-redis')?.spec
    .secretTargetRef;
  expect(
    references?.map(
      ({ parameter, name }: { parameter: string; name: string }) => `${parameter} ${name}`,
    ),
  ).toEqual(expected);
  const { triggers } = find(objects, 'ScaledObject', 'up-pisa-serve-worker-cpu')?.spec ?? {};
  for (const { authenticationRef } of triggers) {
    expect(authenticationRef).toEqual(expected && { name: 'up-pisa-serve-redis' });
  }
});

test('the page names the KEDA that knows the fallback of the chart, and the one of these tests', () => {
  const [, tested] = /kedacore\/keda\/v2 v(2\.\d+)\./.exec(read('crds/go.mod')) ?? [];
  // `fallback.behavior` came with 2.17 (KEDA's CHANGELOG, #6450).
  expect(page).toContain(`[KEDA](https://keda.sh) ≥ 2.17 (tested with ${tested})`);
});

test('each Secret with a password of Redis says which characters an address can take', () => {
  const said = read('../../helm/pisa-serve/values.yaml').match(/# Secret with the password\..*/g);
  expect(said).toHaveLength(2);
  for (const line of said ?? []) expect(line).toContain('Letters, digits, `-`, `_`, `.` and `~`');
});

describe('downloads take the place of the models in the image', () => {
  const download = [
    '--set',
    `models.download[0].url=https://example.com/x,models.download[0].sha256=${'0'.repeat(64)}`,
  ];
  const warning = /WARNING: models\.download .* set models\.default to the name of one/s;

  test('with the default of the image, the notes warn and say what to do', async () => {
    expect(await renderNotes(...download)).toMatch(warning);
  });

  test.each([
    ['a default of one’s own', [...download, '--set', 'models.default=pisa-sr']],
    ['no download', []],
  ])('with %s they do not', async (_name, set) => {
    const notes = await renderNotes(...set);
    expect(notes).toContain('is installed as up');
    expect(notes).not.toMatch(/WARNING/);
  });
});

describe('downloads on a claim', () => {
  const [a, b, c] = ['a', 'b', 'c'].map((digit) => digit.repeat(64));
  const bundle = (sha256 = '', host = 'models.example.com') => ({
    url: `https://${host}/${sha256[0]}`,
    sha256,
  });

  /** The folder of a pod's models, which the downloads make and the worker only reads. */
  const folderOf = async (...download: object[]): Promise<string> => {
    const file = path.join(folder, 'values.yaml');
    const cache = { kind: 'claim', existingClaim: 'upscale-models' };
    writeFileSync(file, JSON.stringify({ models: { default: 'x', download, cache } }));
    const worker = find(await render('--values', file), 'Deployment', 'up-pisa-serve-worker-cpu');
    const { initContainers, containers } = worker?.spec.template.spec ?? {};
    expect(initContainers).toHaveLength(download.length);
    const folders = [...initContainers, ...containers].map(
      ({ env }) => env.find(({ name }: { name: string }) => name === 'MODELS_DIR').value,
    );
    expect(new Set(folders).size).toBe(1);
    for (const { args, volumeMounts } of initContainers) {
      expect(args).not.toContain('--replace');
      expect(volumeMounts).toContainEqual({ name: 'models', mountPath: '/models' });
    }
    const mount = { name: 'models', mountPath: '/models', readOnly: true };
    expect(containers[0].volumeMounts).toContainEqual(mount);
    return folders[0];
  };

  test('of another set lie in another folder, which old workers never look into', async () => {
    const sets = [[a], [b], [c], [a, b], [a, c], [a, b, c]];
    const folders: string[] = [];
    for (const set of sets) folders.push(await folderOf(...set.map((digest) => bundle(digest))));
    expect(new Set(folders).size).toBe(sets.length);
    // The page looks for folders that look so.
    for (const each of folders) expect(each).toMatch(/^\/models\/[0-9a-f]{16}$/);
  });

  test('of the same set lie in the same folder, wherever they come from', async () => {
    const expected = await folderOf(bundle(a), bundle(b));
    expect(await folderOf(bundle(b), bundle(a))).toBe(expected);
    expect(await folderOf(bundle(a, 'mirror.example.com'), bundle(b))).toBe(expected);
  });
});

test.each([
  ['12Gi', '3gb'],
  ['12884901888', '3gb'],
  ['13G', '3221225472'],
  ['200Mi', '50mb'],
])('a volume of %s is enough for a Redis of %s', async (size, maxMemory) => {
  const file = path.join(folder, 'values.yaml');
  writeFileSync(file, `redis: { internal: { size: ${size}, maxMemory: "${maxMemory}" } }`);
  const redis = find(await render('--values', file), 'StatefulSet', 'up-pisa-serve-redis');
  const [claim] = redis?.spec.volumeClaimTemplates ?? [];
  expect(Number.parseFloat(claim.spec.resources.requests.storage)).toBe(Number.parseFloat(size));
});

test.each([
  ['without a limit', 'redis.internal.resources.limits.memory=null'],
  ['with one and a half times its memory', 'redis.internal.resources.limits.memory=4608Mi'],
])('a Redis %s is taken', async (_name, set) => {
  expect(find(await render('--set', set), 'StatefulSet', 'up-pisa-serve-redis')).toBeDefined();
});

test('the page enlarges the claim that the chart makes, to the size that it has', async () => {
  const redis = find(await render(), 'StatefulSet', 'up-pisa-serve-redis');
  const [claim] = redis?.spec.volumeClaimTemplates ?? [];
  const name = redis?.metadata.name.replace(/^up-/, 'upscale-');
  expect(page).toContain(`patch pvc ${claim.metadata.name}-${name}-0 `);
  expect(page).toContain(`"requests":{"storage":"${claim.spec.resources.requests.storage}"}`);
  expect(page).toContain(`delete statefulset ${name} --cascade=orphan`);
});

test('what values-laptop.yaml keeps and copies leaves most of its Redis to results', async () => {
  const objects = await render('--values', path.join(chart, 'values-laptop.yaml'));
  const { args } =
    find(objects, 'StatefulSet', 'up-pisa-serve-redis')?.spec.template.spec.containers[0] ?? {};
  expect(args[args.indexOf('--maxmemory') + 1]).toBe('768mb');
  for (const name of ['api', 'worker-cpu']) {
    const { KEEP_MAX_MEGABYTES, REUSED_MAX_MEGABYTES } = environment(
      find(objects, 'Deployment', `up-pisa-serve-${name}`),
    );
    const kept = Number(KEEP_MAX_MEGABYTES) + Number(REUSED_MAX_MEGABYTES);
    expect(kept).toBeLessThan((768 * 1.048576) / 3);
  }
});

/** Bytes of a quantity in Gi. */
const gibibytes = (quantity: string): number =>
  Number(/^(\d+)Gi$/.exec(quantity)?.[1] ?? Number.NaN) * 2 ** 30;

test.each(['values-gpu-node.yaml', 'values-production.yaml'])(
  'the temporary files of the large model of %s fit its pods',
  async (file) => {
    const objects = await render('--values', path.join(chart, file));
    const workers = objects.filter(({ kind, metadata }) =>
      /^Deployment .*-worker-/.test(`${kind} ${metadata.name}`),
    );
    const outputs = [...workers, find(objects, 'Deployment', 'up-pisa-serve-api')].map(
      (object) => environment(object).MAX_OUTPUT_PIXELS,
    );
    // API and workers must agree.
    expect(new Set(outputs).size).toBe(1);
    const most = Number(outputs[0]);
    for (const worker of workers) {
      const { JOBS_PER_DEVICE = '2', DEVICES = '' } = environment(worker);
      const devices = DEVICES.split(',').length;
      const { emptyDir } = worker.spec.template.spec.volumes.find(
        ({ name }: { name: string }) => name === 'tmp',
      );
      // The formula of docs/kubernetes.md, in float16.
      const pixels = most + (Number(JOBS_PER_DEVICE) - 1) * Math.min(most, 2048 ** 2);
      expect(devices * 1024 * pixels).toBeLessThan(gibibytes(emptyDir.sizeLimit));
    }
  },
);

test('a class of workers may have a volume of its own for temporary files', async () => {
  const set = 'workers.cpu.temporaryStorageClass=fast,workers.cpu.temporarySize=40Gi';
  const yaml = await renderText('--set', `${set},workers.gpu.enabled=true`);
  expect(await admit(yaml, definitions)).toMatch(/^\d+ objects would be accepted$/);
  const volumeOf = (name: string) =>
    find(parseObjects(yaml), 'Deployment', `up-pisa-serve-worker-${name}`)?.spec.template.spec
      .volumes[0];
  expect(volumeOf('cpu')).toMatchObject({
    name: 'tmp',
    ephemeral: {
      volumeClaimTemplate: {
        spec: {
          accessModes: ['ReadWriteOnce'],
          storageClassName: 'fast',
          resources: { requests: { storage: '40Gi' } },
        },
      },
    },
  });
  expect(volumeOf('gpu')).toEqual({ name: 'tmp', emptyDir: { sizeLimit: '10Gi' } });
});

test('Redis in the release runs on the nodes that are chosen for it', async () => {
  const placement = {
    nodeSelector: { disk: 'fast' },
    tolerations: [{ key: 'data', operator: 'Exists' }],
    affinity: {
      podAntiAffinity: {
        requiredDuringSchedulingIgnoredDuringExecution: [
          {
            topologyKey: 'kubernetes.io/hostname',
            labelSelector: { matchLabels: { 'pisa-serve/role': 'worker' } },
          },
        ],
      },
    },
  };
  const file = path.join(folder, 'values.yaml');
  writeFileSync(file, JSON.stringify({ redis: { internal: placement } }));
  const yaml = await renderText('--values', file);
  expect(await admit(yaml, definitions)).toMatch(/^\d+ objects would be accepted$/);
  const redis = find(parseObjects(yaml), 'StatefulSet', 'up-pisa-serve-redis');
  expect(redis?.spec.template.spec).toMatchObject(placement);
});

test('an external Redis: address, database, TLS with a private authority, for us and for KEDA', async () => {
  const objects = await render('--values', path.join(chart, 'values-production.yaml'));
  for (const name of ['api', 'worker-cpu', 'worker-gpu']) {
    expect(environment(find(objects, 'Deployment', `up-pisa-serve-${name}`))).toMatchObject({
      REDIS_URL: 'rediss://pisa:$(REDIS_PASSWORD)@redis.example.com:6380/0',
      NODE_EXTRA_CA_CERTS: '/etc/pisa/extra-ca/ca.crt',
      STORAGE: 's3://example-images/upscaled',
    });
  }
  const { triggers } = find(objects, 'ScaledObject', 'up-pisa-serve-worker-gpu')?.spec ?? {};
  expect(triggers).toHaveLength(4);
  for (const { metadata } of triggers) {
    expect(metadata).toMatchObject({ address: 'redis.example.com:6380', enableTLS: 'true' });
  }
  expect(objects.filter(({ kind }) => kind === 'Secret')).toEqual([]);
  expect(objects.filter(({ kind }) => kind === 'StatefulSet')).toEqual([]);
});

test('the Ingress serves what people and clients call, and neither probes nor metrics', async () => {
  const set = 'api.ingress.enabled=true,api.ingress.host=upscale.example.com';
  const [rule] = find(await render('--set', set), 'Ingress', 'up-pisa-serve')?.spec.rules ?? [];
  const paths = rule.http.paths.map(
    ({ path: at, pathType }: { path: string; pathType: string }) => `${at} ${pathType}`,
  );
  expect(paths.sort()).toEqual([
    '/ Exact',
    '/docs Prefix',
    '/models Prefix',
    '/playground Prefix',
    '/upscale Prefix',
  ]);
});

test('webhooks may not reach the ranges of the cluster, and workers not the public network', async () => {
  const objects = await render('--set', 'redis.internal.enabled=true');
  const [dns, redis, outside, ...others] =
    find(objects, 'NetworkPolicy', 'up-pisa-serve-api')?.spec.egress ?? [];
  expect(dns.to).toBeUndefined();
  expect(redis.to[0].podSelector.matchLabels['app.kubernetes.io/component']).toBe('redis');
  const { except } = outside.to[0].ipBlock;
  expect(except).toEqual(
    expect.arrayContaining(['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '169.254.0.0/16']),
  );
  expect(others).toEqual([]);
  expect(outside.to[1]).toEqual({ ipBlock: { cidr: '2000::/3' } });
  const worker = find(objects, 'NetworkPolicy', 'up-pisa-serve-workers')?.spec;
  expect(worker.egress).toEqual([dns, redis]);
  expect(worker.ingress).toHaveLength(1);
});

test.each([
  [['https://models.example.com/a', 'https://models.example.com/b'], [443]],
  [
    ['https://models.example.com:8443/a', 'https://models.example.com/b'],
    [443, 8443],
  ],
  [['https://[2001:db8::1]:9000/a'], [9000]],
])('workers reach downloads from %j on ports %j', async (urls, ports) => {
  const file = path.join(folder, 'values.yaml');
  const sha256 = '0'.repeat(64);
  const download = urls.map((url) => ({ url, sha256 }));
  const values = {
    models: { default: 'pisa-sr', download },
    networkPolicy: { storageRanges: ['10.9.0.0/16'] },
  };
  writeFileSync(file, JSON.stringify(values));
  const yaml = await renderText('--values', file);
  expect(await admit(yaml, definitions)).toMatch(/^\d+ objects would be accepted$/);
  const policy = find(parseObjects(yaml), 'NetworkPolicy', 'up-pisa-serve-workers');
  expect(policy?.spec.egress.at(-1)).toEqual({
    ports: ports.map((port) => ({ port })),
    to: [{ ipBlock: { cidr: '10.9.0.0/16' } }],
  });
});

describe('S3 and models without ranges of their own', () => {
  const s3 = { kind: 's3', s3: { bucket: 'b' } };
  const download = [{ url: 'https://models.example.com:8443/a', sha256: '0'.repeat(64) }];
  const egressOf = async (values: object) => {
    const file = path.join(folder, 'values.yaml');
    writeFileSync(file, JSON.stringify(values));
    const yaml = await renderText('--values', file);
    expect(await admit(yaml, definitions)).toMatch(/^\d+ objects would be accepted$/);
    const [api, workers] = ['api', 'workers'].map(
      (name) => find(parseObjects(yaml), 'NetworkPolicy', `up-pisa-serve-${name}`)?.spec.egress,
    );
    return { api, workers };
  };
  const to = [
    { ipBlock: { cidr: '0.0.0.0/0', except: ['10.0.0.0/8'] } },
    { ipBlock: { cidr: '2000::/3' } },
  ];

  test('are reached in the public network alone', async () => {
    const { api, workers } = await egressOf({
      storage: s3,
      models: { default: 'x', download },
      networkPolicy: { blockedRanges: ['10.0.0.0/8'] },
    });
    const ports = [{ port: 443 }];
    expect(api[2]).toEqual({ ports, to });
    expect(workers.slice(2)).toEqual([
      { ports, to },
      { ports: [{ port: 8443 }], to },
    ]);
    // Nothing else of the API but DNS goes anywhere.
    const anywhere = api.filter((rule: { to?: unknown }) => rule.to === undefined);
    expect(anywhere).toHaveLength(1);
  });

  test('may be pods of the cluster that rules of one’s own name', async () => {
    const rule = { to: [{ podSelector: {} }], ports: [{ port: 9000 }] };
    const endpoint = 'http://minio.storage.svc.cluster.local:9000';
    const { api, workers } = await egressOf({
      storage: { ...s3, s3: { ...s3.s3, endpoint } },
      networkPolicy: { apiEgress: [rule], workerEgress: [rule] },
    });
    expect(api.at(-1)).toEqual(rule);
    expect(workers.at(-1)).toEqual(rule);
  });
});

test('blocked ranges of IPv6 are taken out of the public network of IPv6', async () => {
  const set = 'networkPolicy.blockedRanges={10.0.0.0/8,2001:db8::/32}';
  const policy = find(await render('--set', set), 'NetworkPolicy', 'up-pisa-serve-api');
  const outside = policy?.spec.egress[2];
  expect(outside.to).toEqual([
    { ipBlock: { cidr: '0.0.0.0/0', except: ['10.0.0.0/8'] } },
    { ipBlock: { cidr: '2000::/3', except: ['2001:db8::/32'] } },
  ]);
});

test('an API pod starts when Redis is there, and stays ready when it goes', async () => {
  const api = find(await render(), 'Deployment', 'up-pisa-serve-api')?.spec;
  const { startupProbe, readinessProbe, livenessProbe } = api.template.spec.containers[0];
  expect(startupProbe.httpGet.path).toBe('/readyz?exclude=devices');
  expect(readinessProbe.httpGet.path).toBe('/readyz?exclude=devices,redis');
  expect(livenessProbe.httpGet.path).toBe('/healthz');
  // A roll-out to a wrong address of Redis ends, by Kubernetes' default of ten minutes, with all that served before.
  expect(startupProbe.periodSeconds * startupProbe.failureThreshold).toBe(600);
  expect(api.strategy.rollingUpdate.maxUnavailable).toBe(0);
});

test('nodes may be removed under pods whose folders on them hold nothing to keep', async () => {
  const key = 'cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes';
  const sha256 = '0'.repeat(64);
  const file = path.join(folder, 'values.yaml');
  const named = async (values: object) => {
    writeFileSync(file, JSON.stringify(values));
    const objects = await render('--values', file);
    return ['api', 'worker-cpu'].map((name) => {
      const { metadata, spec } = find(objects, 'Deployment', `up-pisa-serve-${name}`)?.spec
        .template ?? { metadata: {}, spec: {} };
      const local = spec.volumes.filter(({ emptyDir }: { emptyDir?: object }) => emptyDir);
      const names = local.map(({ name: volume }: { name: string }) => volume).join(',');
      expect(metadata.annotations?.[key] ?? '').toBe(names);
      return metadata.annotations?.[key];
    });
  };
  const download = [{ url: 'https://models.example.com/a', sha256 }];
  const models = { default: 'x', download };
  expect(await named({})).toEqual(['tmp', 'tmp']);
  expect(await named({ models })).toEqual(['tmp', 'tmp,models']);
  const cache = { kind: 'claim', existingClaim: 'models' };
  expect(await named({ models: { ...models, cache } })).toEqual(['tmp', 'tmp']);
  const workerDefaults = { temporaryStorageClass: 'fast' };
  expect(await named({ workerDefaults })).toEqual(['tmp', undefined]);

  writeFileSync(file, JSON.stringify({ api: { podAnnotations: { [key]: '', note: 'mine' } } }));
  const api = find(await render('--values', file), 'Deployment', 'up-pisa-serve-api');
  expect(api?.spec.template.metadata.annotations).toEqual({ [key]: '', note: 'mine' });
});

test('pods start from none when there are more jobs than is said, with whatever weight', async () => {
  const file = path.join(folder, 'values.yaml');
  const modifiers = async (scaling: object) => {
    writeFileSync(file, JSON.stringify({ workerDefaults: { scaling } }));
    const objects = await render('--values', file);
    const scaler = find(objects, 'ScaledObject', 'up-pisa-serve-worker-cpu');
    const { formula, activationTarget } = scaler?.spec.advanced.scalingModifiers ?? {};
    const weight = Number(/\* ([\d.e-]+)$/.exec(formula)?.[1]);
    // KEDA computes with numbers of this kind.
    const active = (jobs: number) => jobs * weight > Number(activationTarget);
    return { formula, active };
  };
  const { formula, active } = await modifiers({});
  expect(formula).toBe('(waiting + prioritized + delayed + active) * 1');
  expect([0, 1].map(active)).toEqual([false, true]);
  const other = await modifiers({ activationJobs: 3, secondsPerJob: 0.1 });
  expect([0, 3, 4].map(other.active)).toEqual([false, false, true]);
});

describe('rules and dashboards of a release', () => {
  const set = ['--set', 'monitoring.rules=true,monitoring.dashboards=true'];
  const texts = async (...more: string[]) =>
    (await render(...set, ...more)).filter(
      ({ kind, metadata }) => kind === 'PrometheusRule' || /-dashboard-/.test(metadata.name),
    );
  const expressions = (objects: KubernetesObject[]): string[] =>
    objects.flatMap(({ spec }) =>
      (spec?.groups ?? []).flatMap(({ rules }: { rules: { expr: string }[] }) =>
        rules.map(({ expr }) => expr),
      ),
    );

  test('have the target of waits of the release', async () => {
    const usual = JSON.stringify(await texts());
    const other = JSON.stringify(await texts('--set', 'monitoring.queueWaitTargetSeconds=120'));
    const counted = (text: string, what: RegExp) => text.match(what)?.length ?? 0;
    expect(counted(usual, /30\(\[\.\]0\)\?/g)).toBe(counted(other, /120\(\[\.\]0\)\?/g));
    for (const [text, seconds] of [
      [usual, 30],
      [other, 120],
    ] as const) {
      expect(text).toContain(`interactive jobs wait for more than ${seconds} s`);
      expect(text).toContain(`the last day waited for more than ${seconds} s`);
      expect(text).toContain(`Start within ${seconds} s`);
    }
    expect(other).not.toMatch(/30\(\[\.\]|\b30 s\b/);
  });

  test('an API that is away is missed beside those of other releases', async () => {
    const all = expressions(await texts());
    expect(all.map((expr) => expr.trim())).toContain('absent(pisa_redis_up{namespace="photos"})');
    expect(all.join('')).not.toContain('=~".*"');
  });

  test('a release records and judges its own namespace alone, in every selector', async () => {
    const all = expressions(await texts());
    expect(all.length).toBeGreaterThan(25);
    const own = { label: 'namespace', op: '=', value: 'photos' };
    for (const expr of all) {
      const { selectors } = parseQuery(expr);
      expect(selectors.length, expr).toBeGreaterThan(0);
      for (const { metric, matchers } of selectors) {
        expect(matchers, `${metric} in ${expr}`).toContainEqual(own);
      }
    }
  });
});

describe('planted faults', () => {
  test('a Secret that is not there', async () => {
    const objects = await render('--set', 'apiKeys.existingSecret=nowhere');
    expect(missingNeeds(objects)).toEqual(['Secret nowhere keys.json']);
  });

  test.each([
    ['a privileged container', /allowPrivilegeEscalation: false/, 'privileged: true', /privileged/],
    ['one that may become root', /allowPrivilegeEscalation: false/, '', /allowPrivilege/],
    ['one that keeps capabilities', /capabilities: \{ drop: \[ALL\] \}/, '', /unrestricted capab/],
    ['a pod that runs as root', /runAsNonRoot: true/, '', /runAsNonRoot/],
    ['a pod without a seccomp profile', /seccompProfile: \{.*\}/, '', /seccompProfile/],
  ])('%s', async (_name, right, wrong, reason) => {
    const yaml = await renderText('--show-only', 'templates/workers.yaml');
    expect(yaml).toMatch(right);
    const said = await admit(yaml.replace(right, wrong), definitions);
    expect(said).toMatch(/^Deployment up-pisa-serve-worker-cpu: violates PodSecurity "restricted/);
    expect(said).toMatch(reason);
  });

  test.each([
    ['a field that a Deployment does not have', 'workers', 'enableServiceLinks', /serviceLink/],
    ['a field that a ScaledObject does not have', 'scaling', 'cooldownPeriod', /serviceLink/],
  ])('%s', async (_name, template, field, reason) => {
    const yaml = await renderText('--show-only', `templates/${template}.yaml`);
    expect(yaml).toContain(`${field}:`);
    const said = await admit(yaml.replace(`${field}:`, 'serviceLink:'), definitions);
    expect(said).toMatch(/unknown field/);
    expect(said).toMatch(reason);
  });

  test('a value that a custom resource does not take', async () => {
    const yaml = await renderText('--show-only', 'templates/scaling.yaml');
    const said = await admit(
      yaml.replace(/maxReplicaCount: \d+/, 'maxReplicaCount: ten'),
      definitions,
    );
    expect(said).toMatch(/^ScaledObject up-pisa-serve-worker-cpu: spec.maxReplicaCount: Invalid/);
  });
});
