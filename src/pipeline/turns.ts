/**
 * Several jobs run in one process at once, so that image coding overlaps graph runs. Large ones take turns
 * in the stages that hold image-sized float buffers: peak memory is that of one large image, whatever
 * number of jobs is in flight, and two large jobs end no later than side by side.
 */
import { Fifo } from '../fifo.ts';
import type { PixelSize } from '../jobs/output-size.ts';

/** From this size on (2048²) an image is large: about 50 MB per float copy, and more in latents. */
const largePixels = 4_194_304;

export class Turns {
  readonly #large = new Fifo();

  /**
   * Runs `work` when no other large image is in work; a small one never waits.
   * @param size of what the model works on
   * @throws the reason of the signal, when it aborts in the queue; or whatever `work` throws
   */
  async take<T>(
    size: PixelSize,
    signal: AbortSignal | undefined,
    work: () => Promise<T>,
  ): Promise<T> {
    if (size.width * size.height < largePixels) return work();
    return this.#large.take(signal, work);
  }
}

/** One process, one memory. */
export const largeImages = new Turns();
