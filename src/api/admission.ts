/** What can be said of a job before a device sees it: refused here, it costs no place in the queue. */
import type { Config } from '../config.ts';
import { AppError, expected } from '../errors.ts';
import { maxSidePixels, outputSize, type UpscaleParams } from '../jobs/params.ts';
import type { UpscaleQueue } from '../jobs/queue.ts';
import { planSheet, type Sweep } from '../jobs/sheet.ts';

const queueFullRetrySeconds = 10;

/**
 * Called before the upload is read.
 * @throws queue_full | unknown_model | redis_unavailable
 */
export async function checkRoomAndModel(
  queue: UpscaleQueue,
  model: string,
  config: Pick<Config, 'MAX_QUEUE_LENGTH' | 'MODEL'>,
): Promise<void> {
  const [counts, models] = await Promise.all([queue.counts(), queue.models()]);
  if (counts.queued >= config.MAX_QUEUE_LENGTH) {
    throw new AppError(
      'queue_full',
      `${counts.queued} jobs wait already. Try again in a while, or ask for more workers.`,
      { retryAfterSeconds: queueFullRetrySeconds },
    );
  }
  // The default model is known before the first worker has ever reported.
  const names = new Set([config.MODEL, ...models.map(({ name }) => name)]);
  if (!names.has(model)) {
    const detail = expected(`one of ${[...names].sort().join(', ')}`, 'model', model);
    throw new AppError('unknown_model', `${detail}. GET /models describes them.`, {
      errors: [{ pointer: '#/query/model', detail }],
    });
  }
}

/**
 * @param input upright, in pixels
 * @throws too_many_pixels | unsupported_output
 */
export function checkOutput(
  input: { width: number; height: number },
  params: UpscaleParams,
  maxOutputPixels: number,
): void {
  const { width, height } = outputSize(input, params.scale);
  const size = `The output would have ${width} × ${height} pixels`;
  if (width * height > maxOutputPixels) {
    const fitting = fittingScale(input, maxOutputPixels);
    const advice =
      fitting === undefined ? 'Send a smaller image' : `A scale of ${fitting} or less fits`;
    throw new AppError(
      'too_many_pixels',
      `${size}; this service makes at most ${maxOutputPixels} (MAX_OUTPUT_PIXELS). ${advice}.`,
      { errors: [{ pointer: '#/query/scale', detail: `${size}.` }] },
    );
  }
  const maxSide = maxSidePixels[params.format];
  if (Math.max(width, height) > maxSide) {
    throw new AppError(
      'unsupported_output',
      `${size}; ${params.format} holds at most ${maxSide} on a side. Choose format=png, or a smaller scale.`,
      { errors: [{ pointer: '#/query/format', detail: `${size}.` }] },
    );
  }
}

/**
 * The same of a contact sheet, whose cells have the size of the output.
 * @throws too_many_pixels | unsupported_output
 */
export function checkSheet(
  input: { width: number; height: number },
  { scale, format }: UpscaleParams,
  sweep: Sweep,
  maxOutputPixels: number,
): void {
  const { width, height } = planSheet(outputSize(input, scale), sweep);
  const size = `The sheet would have ${width} × ${height} pixels`;
  const errors = [{ pointer: '#/query/pix', detail: `${size}.` }];
  if (width * height > maxOutputPixels) {
    throw new AppError(
      'too_many_pixels',
      `${size}; this service makes at most ${maxOutputPixels} (MAX_OUTPUT_PIXELS). Ask for fewer dials, or sweep an image of smaller scale.`,
      { errors },
    );
  }
  const maxSide = maxSidePixels[format];
  if (Math.max(width, height) > maxSide) {
    throw new AppError(
      'unsupported_output',
      `${size}; ${format} holds at most ${maxSide} on a side. Choose format=png, or fewer dials.`,
      { errors },
    );
  }
}

/** The largest scale of two decimals whose output fits; undefined when not even the input would. */
function fittingScale(
  input: { width: number; height: number },
  maxOutputPixels: number,
): number | undefined {
  const pixelsAt = (scale: number): number => {
    const { width, height } = outputSize(input, scale);
    return width * height;
  };
  // Rounding moves the limit a little: start from the limit without it and step down.
  const start = Math.floor(100 * Math.sqrt(maxOutputPixels / (input.width * input.height)));
  for (let hundredths = start; hundredths >= 100; hundredths -= 1) {
    if (pixelsAt(hundredths / 100) <= maxOutputPixels) return hundredths / 100;
  }
  return undefined;
}
