/**
 * The only file that knows ONNX Runtime. A `GraphSession` is one loaded graph: it checks what it is fed by
 * name, type and shape, converts float16 at the border, and writes results into the caller's buffer.
 *
 * `run` and `open` block the event loop while native code runs (microsoft/onnxruntime #19611), so they
 * belong in a device process, never in a process that holds a queue lock.
 */
import ort from 'onnxruntime-node';
import { AppError, expected } from '../errors.ts';
import { brokenDevice, isBrokenDevice } from './broken-device.ts';
import { float16ToFloat32, float32ToFloat16 } from './float16.ts';
import { isOutOfMemory, isRefusedHandle, outOfMemory } from './out-of-memory.ts';

/** `cuda`: the number that messages name, and that CUDA knows it by unless it is the only one that the process sees. */
export type ExecutionProvider = 'cpu' | 'webgpu' | { cuda: number; isOnlyVisible?: boolean };

export interface SessionOptions {
  executionProvider: ExecutionProvider;
  /** CPU threads of one run. Default: ONNX Runtime's choice, one per physical core. */
  threads?: number | undefined;
  /** Whether a CPU session keeps the memory of its largest run for the next one, which is faster. Default true. */
  keepsMemory?: boolean;
}

/**
 * An array and its dimensions. A Float32Array of a float16 tensor is converted on the way in and out; a
 * Uint16Array is taken to be its bits.
 */
export interface Values {
  data: Float32Array | Uint16Array;
  dims: readonly number[];
}

/** Names and ranks of a graph's inputs or outputs: a number is a fixed dimension, null a free one. */
export type Signature = Record<string, readonly (number | null)[]>;

export interface GraphContract {
  /** Absolute path of the .onnx file. With `bytes`, what messages call it. */
  file: string;
  /** The graph itself, where it is no file of its own. */
  bytes?: Uint8Array;
  dtype: 'float32' | 'float16';
  /** Inputs and outputs that are float32 whatever `dtype` is. */
  float32?: readonly string[];
  inputs: Signature;
  outputs: Signature;
}

/**
 * Devices that no session of this process may run on any more, and why. A context belongs to the process: what breaks it in
 * one session, breaks it for all. And a GPU on which a run had too little memory: ONNX Runtime's CUDA convolutions note the
 * shape of their input before they ask for memory and choose a plan (`Conv::UpdateState`); where that fails, the next
 * run of the same shape takes the plan of the shape before it, and gives wrong pixels without a word.
 */
const brokenDevices = new Map<string, AppError>();
let onBreak: (fault: AppError) => void = () => undefined;

/**
 * @param listener told once of each device that breaks: in the async context of whoever ran what broke it, and before
 *   anybody else can meet the broken device
 */
export function whenDeviceBreaks(listener: (fault: AppError) => void): void {
  onBreak = listener;
}

type Metadata = ort.InferenceSession.ValueMetadata;

const providerName = (provider: ExecutionProvider): string =>
  typeof provider === 'string' ? provider : `cuda:${provider.cuda}`;

function nativeOptions({ executionProvider, threads, keepsMemory = true }: SessionOptions) {
  return {
    executionProviders: [
      typeof executionProvider === 'string'
        ? executionProvider
        : { name: 'cuda', deviceId: executionProvider.isOnlyVisible ? 0 : executionProvider.cuda },
    ],
    interOpNumThreads: 1,
    ...(threads === undefined ? {} : { intraOpNumThreads: threads }),
    executionMode: 'sequential',
    // With it the second run of a shape asks the arena for all its memory anew, as one block: with what the first one, the
    // warm-up, has taken that is up to three times as much (microsoft/onnxruntime #14477). On a CPU it gains no time that
    // could be measured, on a GPU tiles are planned without it.
    enableMemPattern: false,
    enableCpuMemArena: keepsMemory,
    graphOptimizationLevel: 'all',
    logSeverityLevel: 3,
    // Idle threads of one session would spin while another session, or an image codec, needs the cores:
    // without spinning, 128² → 512² takes 0.65 s of CPU time instead of 0.86 s, and no longer by the clock.
    extra: {
      session: {
        intra_op: { allow_spinning: '0' },
        // Weights beside the arena, which rounds up what it takes.
        ...(typeof executionProvider === 'string'
          ? {}
          : { use_device_allocator_for_initializers: '1' }),
      },
    },
  } as const satisfies ort.InferenceSession.SessionOptions;
}

const providerAdvice = {
  cpu: 'The CPU provider is part of onnxruntime-node: install the dependencies again with `npm ci`. If only this model fails, see whether its files are whole: `pisa-serve models verify`.',
  webgpu:
    'It needs a Vulkan driver (libvulkan1 and a driver for the graphics card). Set DEVICES=cpu to run without.',
  cuda: "It needs an NVIDIA GPU of compute capability 7.5, 8.x, 9.0 or 12.x, driver 580 or newer, CUDA 13, cuDNN 9 and ONNX Runtime's CUDA provider, which are not in onnxruntime-node: docs/devices.md says where they come from. Set DEVICES=cpu to run without.",
};

const reasonOf = (cause: unknown): string =>
  (cause instanceof Error ? cause.message : String(cause)).trim().replace(/\.$/, '');

/** What ONNX Runtime said of a device that cannot start, and what that needs. */
function unusableDevice(cause: unknown, provider: ExecutionProvider): AppError {
  const kind = typeof provider === 'string' ? provider : 'cuda';
  const detail = `The device ${providerName(provider)} cannot be used: ${reasonOf(cause)}. ${providerAdvice[kind]}`;
  return new AppError('device_unavailable', detail, { cause });
}

/**
 * What ONNX Runtime says of a graph may be of one job; said when the first one is loaded and run, it is of the device. So is
 * a broken one, and one that has no memory for a handle, before they have done anything.
 * @returns device_unavailable, or the error as it is
 */
export function asStartFault(error: unknown, provider: ExecutionProvider): unknown {
  if (!(error instanceof AppError)) return unusableDevice(error, provider);
  const isOfDevice = error.code === 'device_lost' || isRefusedHandle(error.cause);
  return isOfDevice ? unusableDevice(error.cause, provider) : error;
}

/**
 * A failure of the device that says nothing of the graph: another job, or the same one later, may have more luck.
 * @param when a graph that cannot be opened for want of memory leaves the others as they are
 */
function deviceFault(cause: unknown, device: string, when: 'open' | 'run'): AppError | undefined {
  if (isBrokenDevice(cause)) return noteBroken(device, brokenDevice(device, cause));
  if (!isOutOfMemory(cause)) return undefined;
  const fault = outOfMemory(device, cause);
  return when === 'run' && device !== 'cpu' ? noteBroken(device, fault) : fault;
}

function noteBroken(device: string, fault: AppError): AppError {
  if (!brokenDevices.has(device)) {
    brokenDevices.set(device, fault);
    onBreak(fault);
  }
  return fault;
}

/** A failure to open a graph: of the device, then or for good, or of the file. */
function openFailure(cause: unknown, file: string, provider: ExecutionProvider): AppError {
  const fault = deviceFault(cause, providerName(provider), 'open');
  if (fault) return fault;
  const reason = reasonOf(cause);
  const isFileFault = /load model|protobuf|not supported model|InvalidGraph|ModelProto|opset/i.test(
    reason,
  );
  if (isFileFault || provider === 'cpu') {
    return new AppError('invalid_bundle', `${file} cannot be loaded: ${reason}`, { cause });
  }
  return unusableDevice(cause, provider);
}

const showShape = (shape: readonly (number | string | null)[]): string =>
  `[${shape.map((dim) => dim ?? '?').join(',')}]`;

function faultsOf(side: string, found: readonly Metadata[], contract: GraphContract): string[] {
  const wanted = side === 'input' ? contract.inputs : contract.outputs;
  const names = found.map((value) => value.name).sort();
  const wantedNames = Object.keys(wanted).sort();
  if (names.join() !== wantedNames.join()) {
    return [expected(wantedNames.join(', '), `the names of the ${side}s`, names.join(', '))];
  }
  return found.flatMap((value) => {
    const shape = wanted[value.name] ?? [];
    if (!value.isTensor) return [expected('a tensor', `${side} ${value.name}`, 'another kind')];
    const faults: string[] = [];
    const dtype = dtypeOf(contract, value.name);
    if (value.type !== dtype) {
      faults.push(expected(dtype, `the type of ${side} ${value.name}`, value.type));
    }
    const fits =
      value.shape.length === shape.length &&
      shape.every(
        (dim, i) => dim === null || typeof value.shape[i] === 'string' || value.shape[i] === dim,
      );
    if (!fits) {
      const received = showShape(value.shape);
      faults.push(expected(showShape(shape), `the shape of ${side} ${value.name}`, received));
    }
    return faults;
  });
}

const dtypeOf = ({ dtype, float32 = [] }: GraphContract, name: string) =>
  float32.includes(name) ? 'float32' : dtype;

const mapValues = <T, U>(values: Record<string, T>, to: (value: T, name: string) => U) =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, to(value, name)]));

function tensorOf({ data, dims }: Values): ort.Tensor {
  if (data instanceof Float32Array) return new ort.Tensor('float32', data, dims);
  const tensor = new ort.Tensor('float16', data, dims);
  // From Node 24 on onnxruntime-common makes a Float16Array of the bits, which its binding takes for an empty one
  // (microsoft/onnxruntime #32323). It asks the tensor for its data, so it is told the bits.
  Object.defineProperty(tensor, 'data', { value: data });
  return tensor;
}

const countOf = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1);

export class GraphSession {
  readonly #session: ort.InferenceSession;
  readonly #contract: GraphContract;
  /** As in DEVICES. */
  readonly #device: string;

  private constructor(session: ort.InferenceSession, contract: GraphContract, device: string) {
    this.#session = session;
    this.#contract = contract;
    this.#device = device;
  }

  /** @throws invalid_bundle | device_unavailable | device_lost | out_of_device_memory */
  static async open(contract: GraphContract, options: SessionOptions): Promise<GraphSession> {
    let session: ort.InferenceSession;
    try {
      const native = nativeOptions(options);
      session = contract.bytes
        ? await ort.InferenceSession.create(contract.bytes, native)
        : await ort.InferenceSession.create(contract.file, native);
    } catch (cause) {
      throw openFailure(cause, contract.file, options.executionProvider);
    }
    const faults = [
      ...faultsOf('input', session.inputMetadata, contract),
      ...faultsOf('output', session.outputMetadata, contract),
    ];
    if (faults.length > 0) {
      await session.release();
      throw new AppError('invalid_bundle', `${contract.file}: ${faults.join('; ')}.`);
    }
    return new GraphSession(session, contract, providerName(options.executionProvider));
  }

  /**
   * One run. The results are in `outputs[name].data` afterwards.
   * @throws device_lost, out_of_device_memory (then, on a GPU, no session of the process runs again), or what else ONNX Runtime throws
   * @throws TypeError when names or sizes do not fit: a fault of the caller, not of the user
   */
  async run(feeds: Record<string, Values>, outputs: Record<string, Values>): Promise<void> {
    this.#check('feeds', feeds, this.#contract.inputs);
    this.#check('outputs', outputs, this.#contract.outputs);
    const fault = brokenDevices.get(this.#device);
    if (fault) throw fault;
    const fed = mapValues(feeds, (value, name) => this.#stored(name, value, true));
    const fetched = mapValues(outputs, (value, name) => this.#stored(name, value, false));
    const returned = await this.#session
      .run(mapValues(fed, tensorOf), mapValues(fetched, tensorOf))
      .catch((cause: unknown) => {
        throw deviceFault(cause, this.#device, 'run') ?? cause;
      });
    for (const [name, value] of Object.entries(outputs)) {
      // A preallocated output is written in place; the returned tensor is another copy of it.
      const data = fetched[name]?.data;
      if (data instanceof Uint16Array && value.data instanceof Float32Array) {
        float16ToFloat32(data, value.data);
      }
      returned[name]?.dispose();
    }
  }

  /** Not on a broken device: CUDA may wait for it without end, and the process ends anyway. */
  async release(): Promise<void> {
    if (!brokenDevices.has(this.#device)) await this.#session.release();
  }

  /** As the graph has it: of a float16 tensor the bits. */
  #stored(name: string, { data, dims }: Values, fill: boolean): Values {
    if (data instanceof Uint16Array || dtypeOf(this.#contract, name) === 'float32') {
      return { data, dims };
    }
    const halves = new Uint16Array(data.length);
    return { data: fill ? float32ToFloat16(data, halves) : halves, dims };
  }

  #check(what: string, values: Record<string, Values>, signature: Signature): void {
    const names = Object.keys(signature).sort().join(', ');
    const received = Object.keys(values).sort().join(', ');
    if (names !== received) throw new TypeError(expected(names, what, received));
    for (const [name, { data, dims }] of Object.entries(values)) {
      const shape = signature[name] ?? [];
      const fits =
        dims.length === shape.length && shape.every((dim, i) => dim === null || dim === dims[i]);
      if (!fits)
        throw new TypeError(expected(showShape(shape), `dims of ${name}`, showShape(dims)));
      if (data.length !== countOf(dims)) {
        const size = `${countOf(dims)} values for dims ${showShape(dims)}`;
        throw new TypeError(expected(size, name, data.length));
      }
    }
  }
}
