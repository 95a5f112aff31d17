/** Notices that a device process has gone silent, which is how one that hangs is known. */
const checkMs = 1000;

export class SilenceWatch {
  #timer: NodeJS.Timeout | undefined;

  /**
   * Watches one process until `stop`; the one before is watched no more.
   * @param heardAt when it last said anything, in `performance.now()` milliseconds
   * @param limitMs of silence
   * @param onSilence called at every check from then on
   */
  start(heardAt: () => number, limitMs: number, onSilence: () => void): void {
    this.stop();
    let silentChecks = 0;
    this.#timer = setInterval(() => {
      silentChecks = performance.now() - heardAt() > limitMs ? silentChecks + 1 : 0;
      // Two in a row, so that a supervisor that was itself suspended hears what was said meanwhile.
      if (silentChecks >= 2) onSilence();
    }, checkMs);
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
