/**
 * Runs an encoder or decoder stage by stage, each on strips of the image, so that normalisation has the
 * statistics of the whole image and attention sees all of it, exactly, in the memory of a strip. Between the
 * stages tensors lie on disk (`stored-rows.ts`).
 */
import { float16ToFloat32, float32ToFloat16 } from '../float16.ts';
import type { RunControl } from '../run-control.ts';
import type { GraphSession, Values } from '../session.ts';
import { PooledStatistics, type Statistics } from './pooled-statistics.ts';
import type { StageManifest } from './schema.ts';
import type { StageSessions } from './stage-sessions.ts';
import { type Elements, type ElementType, elements, StoredRows } from './stored-rows.ts';

interface Size {
  readonly height: number;
  readonly width: number;
}

/** Rows of the input, [rows,C,W] float32. */
export type RowSource = (y: number, rows: number, target: Float32Array) => void;
/** Rows of the output, [rows,C,W] float32, from the top down. */
type RowSink = (y: number, rows: number, values: Float32Array) => void;

/** A tensor of the image: the source, or stored. */
interface Tensor extends Size {
  readonly channels: number;
  readonly tokens: boolean;
  read(y: number, rows: number, target: Elements): Promise<void> | void;
  close(): Promise<void>;
}

export interface StripsJob {
  readonly stages: StageSessions;
  readonly source: RowSource;
  readonly sink: RowSink;
  /** Of the source. */
  readonly size: Size;
  /** Latent cells of the image's width. */
  readonly latentWidth: number;
  /** A strip has at most this many latent cells. */
  readonly stripCells: number;
  readonly control: RunControl;
}

/** Rows that a stage writes at once: all strips as equal as they can be, and whole rows of its input. */
export function stripRows(
  out: Size,
  scale: number,
  { latentWidth, stripCells }: Pick<StripsJob, 'latentWidth' | 'stripCells'>,
): number {
  const unit = Math.max(1, scale);
  // What costs memory is the larger of input and output.
  const finest = Math.max(out.width, out.width / scale) / latentWidth;
  const most = Math.floor((stripCells * finest) / latentWidth) * Math.min(1, scale);
  const count = Math.ceil(out.height / Math.max(unit, most));
  return Math.ceil(out.height / count / unit) * unit;
}

const outputSizeOf = ({ scale }: StageManifest, { height, width }: Size): Size => ({
  height: height * scale,
  width: width * scale,
});

function sourceTensor(job: StripsJob): Tensor {
  const { stages, source, size } = job;
  const { channels } = stages.manifest;
  const read = (y: number, rows: number, target: Elements) => {
    if (target instanceof Float32Array) return source(y, rows, target);
    const values = new Float32Array(target.length);
    source(y, rows, values);
    float32ToFloat16(values, target);
  };
  return { ...size, channels, tokens: false, read, close: async () => undefined };
}

async function storedTensor(
  size: Size,
  { channels, tokens }: { channels: number; tokens: boolean },
  type: ElementType,
): Promise<Tensor & Pick<StoredRows, 'write'>> {
  const rowBytes = size.width * channels * (type === 'float32' ? 4 : 2);
  const stored = await StoredRows.create(rowBytes);
  return {
    ...size,
    channels,
    tokens,
    read: (y, _rows, target) => stored.read(y, target),
    write: (y, rows) => stored.write(y, rows),
    close: () => stored.close(),
  };
}

const dimsOf = (
  { channels, width, tokens }: Omit<Tensor, 'read' | 'close' | 'height'>,
  n: number,
) => (tokens ? [n, width, channels] : [n, channels, width]);

/** What the strip of one stage reads. */
async function feedsOf(
  stage: StageManifest,
  tensors: ReadonlyMap<number, Tensor>,
  statistics: ReadonlyMap<number, Statistics>,
  own: { start: number; end: number },
  type: ElementType,
): Promise<Record<string, Values>> {
  const feeds: Record<string, Values> = {};
  const [start, end] = [own.start / stage.scale, own.end / stage.scale];
  const height = tensors.get(stage.reads[0]?.tensor ?? 0)?.height ?? 0;
  for (const read of stage.reads) {
    const tensor = tensors.get(read.tensor) as Tensor;
    const from = read.whole ? 0 : Math.max(0, start - read.above);
    const to = read.whole ? tensor.height : Math.min(tensor.height, end + read.below);
    const data = elements(type, (to - from) * tensor.channels * tensor.width);
    await tensor.read(from, to - from, data);
    feeds[read.input] = { data, dims: dimsOf(tensor, to - from) };
  }
  if (stage.statistics !== null) {
    const { mean, variance } = statistics.get(stage.statistics) as Statistics;
    feeds.mean = { data: mean, dims: [mean.length] };
    feeds.variance = { data: variance, dims: [variance.length] };
  }
  if (stage.padded) {
    const edges = Float32Array.of(Number(start === 0), Number(end === height));
    feeds.edges = { data: edges, dims: [2] };
  }
  return feeds;
}

const toFloat32 = (values: Elements): Float32Array =>
  values instanceof Float32Array
    ? values
    : float16ToFloat32(values, new Float32Array(values.length));

/** Relative work of a stage: the values that it writes. */
const workOf = (stage: StageManifest, out: Size): number =>
  out.height * out.width * stage.writes.reduce((sum, { channels }) => sum + channels, 0);

function totalWork({ stages, size }: StripsJob): number {
  let [at, sum] = [size, 0];
  for (const stage of stages.manifest.stages) {
    at = outputSizeOf(stage, at);
    sum += workOf(stage, at);
  }
  return sum;
}

/** @throws disk_full | the reason of the signal between two strips */
export async function runStrips(job: StripsJob): Promise<void> {
  const { stages, control } = job;
  const list = stages.manifest.stages;
  const tensors = new Map<number, Tensor>([[0, sourceTensor(job)]]);
  const statistics = new Map<number, Statistics>();
  const total = totalWork(job);
  let done = 0;
  try {
    for (const [i, stage] of list.entries()) {
      const input = tensors.get(stage.reads[0]?.tensor ?? 0) as Tensor;
      const out = outputSizeOf(stage, input);
      const work = workOf(stage, out);
      const advance = (share: number) => control.advanceTo((done + share * work) / total);
      await stages.with(i, (session) =>
        runStage(job, session, i, out, tensors, statistics, advance),
      );
      done += work;
      for (const [number, tensor] of tensors) {
        if (list.slice(i + 1).some(({ reads }) => reads.some((read) => read.tensor === number))) {
          continue;
        }
        tensors.delete(number);
        await tensor.close();
      }
    }
  } finally {
    for (const tensor of tensors.values()) await tensor.close();
  }
}

async function runStage(
  job: StripsJob,
  session: GraphSession,
  index: number,
  out: Size,
  tensors: Map<number, Tensor>,
  statistics: Map<number, Statistics>,
  advance: (share: number) => void,
): Promise<void> {
  const { stages, sink, control } = job;
  const { dtype, manifest } = stages;
  const stage = manifest.stages[index] as StageManifest;
  const isLast = index === manifest.stages.length - 1;
  const pooled = new PooledStatistics(manifest.groups);
  const targets: Awaited<ReturnType<typeof storedTensor>>[] = [];
  for (const write of isLast ? [] : stage.writes) {
    const target = await storedTensor(out, write, dtype);
    targets.push(target);
    tensors.set(write.tensor, target);
  }
  const rows = stripRows(out, stage.scale, job);
  for (let start = 0; start < out.height; start += rows) {
    const end = Math.min(out.height, start + rows);
    const feeds = await feedsOf(stage, tensors, statistics, { start, end }, dtype);
    const outputs: Record<string, Values> = {};
    for (const write of stage.writes) {
      const data = elements(dtype, (end - start) * write.channels * out.width);
      outputs[write.output] = { data, dims: dimsOf({ ...write, width: out.width }, end - start) };
    }
    const part = pooled.part();
    if (stage.writes[0]?.statistics) {
      outputs.mean_out = { data: part.mean, dims: [manifest.groups] };
      outputs.variance_out = { data: part.variance, dims: [manifest.groups] };
    }
    await session.run(feeds, outputs);
    pooled.add(part, end - start);
    for (const [k, write] of stage.writes.entries()) {
      const data = outputs[write.output]?.data as Elements;
      if (isLast) sink(start, end - start, toFloat32(data));
      else await targets[k]?.write(start, data);
    }
    advance(end / out.height);
    await control.yield();
  }
  for (const write of stage.writes) {
    if (write.statistics) statistics.set(write.tensor, pooled.result());
  }
}
