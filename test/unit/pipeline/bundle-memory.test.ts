import { describe, expect, it } from 'vitest';
import { expectedBytes, fitTiles } from '../../../src/pipeline/bundle-memory.ts';
import { loadManifest, type Manifest } from '../../../src/pipeline/manifest.ts';
import { bundlePath, embeddedBundle } from './fixtures.ts';

/** Graphs of 1000 bytes each, tiles of 10 cells, 5 bytes a cell. */
function manifestOf(dtype: 'float32' | 'float16'): Pick<Manifest, 'graphs'> {
  const graph = {
    file: 'a.onnx',
    sha256: '',
    bytes: 1000,
    dtype,
    tileLatents: 10,
    overlapLatents: 2,
    receptiveRadiusLatents: null,
    activationBytesPerCell: 5,
  };
  return { graphs: { encoder: graph, unet: graph, decoder: graph } };
}

describe('expectedBytes', () => {
  it('adds up weights and the activations of a tile; those of the UNet twice where its pair is one run', () => {
    expect(expectedBytes(manifestOf('float32'), true)).toBe(3 * 1000 + 3 * 500);
    // On a GPU an arena may hold twice that.
    expect(expectedBytes(manifestOf('float32'), false)).toBe(3 * 1000 + 2 * 4 * 500);
  });

  it('counts one strip more on a GPU, of the graph whose strips are largest', () => {
    const { encoder, unet, decoder } = manifestOf('float32').graphs;
    const strips = {
      file: 'a.stages',
      sha256: '',
      bytes: 300,
      groups: 32,
      channels: 4,
      stages: [],
    };
    const graphs = {
      encoder: { ...encoder, strips },
      unet,
      decoder: { ...decoder, activationBytesPerCell: 7, strips },
    };
    expect(expectedBytes({ graphs }, true)).toBe(3 * 1000 + 2 * 300 + 2 * 500 + 700);
    expect(expectedBytes({ graphs }, false)).toBe(
      3 * 1000 + 2 * 300 + 2 * (500 + 2 * 500 + 700) + 2 * 700,
    );
  });

  it('takes float16 to be float32 on a CPU', () => {
    expect(expectedBytes(manifestOf('float16'), true)).toBe(2 * (3 * 1000 + 3 * 500));
    expect(expectedBytes(manifestOf('float16'), false)).toBe(3 * 1000 + 2 * 4 * 500);
  });

  it('counts external data and stages, and no activations where the manifest knows none', () => {
    const { encoder, unet, decoder } = manifestOf('float32').graphs;
    const { activationBytesPerCell: _, ...silent } = decoder;
    const externalData = [{ file: 'unet.onnx.data', sha256: '', bytes: 70_000 }];
    const graphs = { encoder, unet: { ...unet, externalData }, decoder: silent };
    expect(expectedBytes({ graphs }, true)).toBe(3 * 1000 + 70_000 + 2 * 500);
    expect(expectedBytes({ graphs }, false)).toBe(3 * 1000 + 70_000 + 2 * 3 * 500);
  });

  it('counts merged graphs on a CPU, in place of the gated one, with the weights that they share', () => {
    const { encoder, unet, decoder } = manifestOf('float32').graphs;
    const externalData = [{ file: 'unet.onnx.data', sha256: '', bytes: 70_000 }];
    const [pix, pisa] = [20, 30].map((bytes) => ({ file: 'b.onnx', sha256: '', bytes }));
    if (!pix || !pisa) throw new Error('two files');
    const graphs = { encoder, unet: { ...unet, externalData, merged: { pix, pisa } }, decoder };
    expect(expectedBytes({ graphs }, true)).toBe(2 * 1000 + 20 + 30 + 2 * 70_000 + 3 * 500);
    expect(expectedBytes({ graphs }, false)).toBe(3 * 1000 + 70_000 + 2 * 4 * 500);
  });

  it('is the size of the files for the embedded bundle on a GPU', async () => {
    const manifest = await loadManifest(embeddedBundle);
    const files = Object.values(manifest.graphs).flatMap((graph) => [
      graph.bytes,
      ...(graph.externalData ?? []).map(({ bytes }) => bytes),
    ]);
    expect(expectedBytes(manifest, false)).toBe(files.reduce((a, b) => a + b, 0));
  });
});

describe('fitTiles', () => {
  const tilesByMemory = [
    { gigabytes: 6, encoder: 24, unet: 32, decoder: 40 },
    { gigabytes: 24, encoder: 48, unet: 64, decoder: 80 },
  ];

  it.each([
    [undefined, 16, 16, 16],
    [4e9, 24, 32, 40],
    [6e9, 24, 32, 40],
    [23.9e9, 24, 32, 40],
    [24e9, 48, 64, 80],
    [80e9, 48, 64, 80],
  ])('%s bytes → %i, %i, %i cells', async (memory, encoder, unet, decoder) => {
    const manifest = { ...(await loadManifest(bundlePath('identity'))), tilesByMemory };
    const { graphs } = fitTiles(manifest, memory);
    expect([graphs.encoder, graphs.unet, graphs.decoder].map((graph) => graph.tileLatents)).toEqual(
      [encoder, unet, decoder],
    );
    expect(graphs.unet).toEqual({ ...manifest.graphs.unet, tileLatents: unet });
  });

  it('takes a smaller size where the one that is named would not fit', async () => {
    const { graphs, ...rest } = await loadManifest(bundlePath('identity'));
    const large = { ...graphs.decoder, activationBytesPerCell: 1.5e6 };
    const manifest = { ...rest, graphs: { ...graphs, decoder: large }, tilesByMemory };
    // 2 × 1.5 MB × 80² cells are 19.2 GB.
    expect(fitTiles(manifest, 24.1e9).graphs.decoder.tileLatents).toBe(80);
    expect(fitTiles(manifest, 24e9).graphs.decoder.tileLatents).toBe(40);
    expect(fitTiles(manifest, 5e9).graphs.decoder.tileLatents).toBe(40);
  });

  it('leaves a bundle as it is that has one size only', async () => {
    const manifest = await loadManifest(embeddedBundle);
    expect(fitTiles(manifest, 80e9)).toBe(manifest);
  });
});
