/** What guards the CUDA image's libraries, on planted faults: real ELF files and packages, no GPU. */
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { root, run, tool } from './tools.ts';

const nodePackage = path.join(root, 'node_modules/onnxruntime-node');
const library = path.join(nodePackage, 'bin/napi-v6/linux/x64/libonnxruntime.so.1');
const { version } = JSON.parse(readFileSync(path.join(nodePackage, 'package.json'), 'utf8'));
const requirements = readFileSync(path.join(root, 'docker/cuda-requirements.txt'), 'utf8');

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(process.env.TMPDIR ?? '/tmp', 'pisa-cuda-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('docker/cuda-requirements.txt', () => {
  /** Whether pip takes the package that scripts/image-tools.sh got, by a line of the requirements. */
  async function take(requirement: string) {
    const file = path.join(folder, 'requirements.txt');
    writeFileSync(file, requirement);
    // The options of docker/Dockerfile, offline.
    const offline = ['--no-index', `--find-links=${tool('wheels')}`, `--target=${folder}/wheels`];
    const pinned = ['--no-deps', '--require-hashes', '--only-binary=:all:', '-r', file];
    return run('python3', '-m', 'pip', 'install', '--quiet', ...offline, ...pinned);
  }
  const [, pin = ''] =
    /^(nvidia-cuda-runtime==\S+ \\\n\s+--hash=sha256:[0-9a-f]{64})$/m.exec(requirements) ?? [];

  test('pip takes a package of its digest', async () => {
    expect(await take(pin)).toMatchObject({ code: 0 });
  });

  test('pip refuses one of another digest, and one without', async () => {
    const other = pin.replace(/[0-9a-f]$/, (digit) => (digit === '0' ? '1' : '0'));
    const changed = await take(other);
    expect(changed.code).not.toBe(0);
    expect(changed.stderr).toMatch(/DO NOT MATCH THE HASHES/);
    const bare = await take(pin.replace(/ \\\n.*/, ''));
    expect(bare.code).not.toBe(0);
    expect(bare.stderr).toMatch(/Hashes are required/);
  });

  test('each package has a version and a digest', () => {
    const lines = requirements.replaceAll('\\\n', ' ').split('\n');
    const packages = lines.filter((line) => line !== '' && !line.startsWith('#'));
    expect(packages.length).toBeGreaterThan(5);
    expect(
      packages.filter((line) => !/^[\w-]+==[\d.]+\s+--hash=sha256:[0-9a-f]{64}$/.test(line)),
    ).toEqual([]);
  });

  test('the provider is of the version of onnxruntime-node', () => {
    expect(requirements).toContain(`\nonnxruntime-gpu==${version} `);
  });
});

describe('docker/cuda-libraries.sh', () => {
  const inWheels = (...names: string[]) => path.join(folder, 'wheels', ...names);
  const gather = () =>
    spawnSync(
      path.join(root, 'docker/cuda-libraries.sh'),
      [inWheels(), nodePackage, path.join(folder, 'out')],
      { encoding: 'utf8' },
    );

  /** A copy of ONNX Runtime's library that needs `needs` in place of libstdc++.so.6: as long, or shorter. */
  function libraryThatNeeds(file: string, needs: string): void {
    const bytes = readFileSync(library);
    const name = 'libstdc++.so.6';
    expect(needs.length).toBeLessThanOrEqual(name.length);
    bytes.write(needs.padEnd(name.length, '\0'), bytes.indexOf(`\0${name}\0`) + 1, 'latin1');
    writeFileSync(file, bytes);
  }

  // Stands in for 1.3 GB of packages: their names and folders, with ONNX Runtime's own library as each file.
  beforeEach(() => {
    mkdirSync(inWheels(`onnxruntime_gpu-${version}.dist-info`), { recursive: true });
    mkdirSync(inWheels('onnxruntime/capi'), { recursive: true });
    mkdirSync(inWheels('nvidia/cu13/lib'), { recursive: true });
    cpSync(library, inWheels(`onnxruntime/capi/libonnxruntime.so.${version}`));
    cpSync(library, inWheels('onnxruntime/capi/libonnxruntime_providers_shared.so'));
    // The driver is not part of an image: its absence is no fault.
    libraryThatNeeds(inWheels('onnxruntime/capi/libonnxruntime_providers_cuda.so'), 'libcuda.so.1');
    for (const name of ['libcudnn.so.9', 'libcufft.so.12', 'libnvrtc.so.13']) {
      cpSync(library, inWheels('nvidia/cu13/lib', name));
    }
  });

  test('it passes when all is there but the driver', () => {
    expect(gather()).toMatchObject({ status: 0, stderr: '' });
  });

  test('it fails on a library that another one needs, and names both', () => {
    libraryThatNeeds(inWheels('nvidia/cu13/lib/libcudnn.so.9'), 'libcublas.s.13');
    const { status, stderr } = gather();
    expect(status).toBe(1);
    expect(stderr).toMatch(/libcudnn\.so\.9:\s+libcublas\.s\.13 => not found/);
  });

  test('it fails on a library that is loaded by name', () => {
    rmSync(inWheels('nvidia/cu13/lib/libcufft.so.12'));
    const { status, stderr } = gather();
    expect(status).toBe(1);
    expect(stderr).toMatch(/libcufft\.so\.12 is missing/);
  });

  test('it fails on a provider of another version than onnxruntime-node', () => {
    renameSync(
      inWheels(`onnxruntime_gpu-${version}.dist-info`),
      inWheels('onnxruntime_gpu-1.2.3.dist-info'),
    );
    const { status, stderr } = gather();
    expect(status).toBe(1);
    expect(stderr).toMatch(/but onnxruntime-gpu is 1\.2\.3/);
  });

  test('it fails on a provider of the same version from another commit', () => {
    const file = inWheels(`onnxruntime/capi/libonnxruntime.so.${version}`);
    const bytes = readFileSync(file);
    const at = bytes.indexOf('git-commit-id=') + 'git-commit-id='.length;
    bytes.write('0000000', at, 'latin1');
    writeFileSync(file, bytes);
    const { status, stderr } = gather();
    expect(status).toBe(1);
    expect(stderr).toMatch(
      /was built from git-commit-id=(?!0000000)\S+, onnxruntime-gpu from git-commit-id=0000000/,
    );
  });
});
