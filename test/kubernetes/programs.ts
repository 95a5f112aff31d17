/** Server programs that a test starts: their logs are kept, and none outlives the test. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const startLimitMs = 240_000;
const logTailCharacters = 4000;

export class Programs {
  /** For what they write; deleted by `stop`. */
  readonly folder: string;
  readonly #running: { name: string; child: ChildProcess }[] = [];
  readonly #endWithUs = () => {
    for (const { child } of this.#running) child.kill('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  };

  constructor(prefix: string) {
    this.folder = mkdtempSync(path.join(tmpdir(), prefix));
    process.once('exit', this.#endWithUs);
  }

  at(name: string): string {
    return path.join(this.folder, name);
  }

  start(name: string, file: string, args: string[], env: Record<string, string> = {}): void {
    const log = openSync(this.at(`${name}.log`), 'a');
    // Nothing of a run that is killed outright may stay.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', file, ...args], {
      stdio: ['ignore', log, log],
      cwd: this.folder,
      env: { ...process.env, ...env },
    });
    closeSync(log);
    child.once('error', () => {});
    this.#running.push({ name, child });
  }

  /** @throws with the end of its log, when the program ends or it takes too long */
  async until(name: string, check: () => boolean | Promise<boolean>): Promise<void> {
    const child = this.#running.find((program) => program.name === name)?.child;
    const deadline = Date.now() + startLimitMs;
    for (;;) {
      const ok = await Promise.resolve()
        .then(check)
        .catch(() => false);
      if (ok) return;
      const ended = !child?.pid || child.exitCode !== null || child.signalCode !== null;
      if (ended || Date.now() > deadline) {
        throw new Error(`${name} did not start${ended ? '' : ' in time'}:\n${this.logTail(name)}`);
      }
      await delay(200);
    }
  }

  logTail(name: string): string {
    return readFileSync(this.at(`${name}.log`), 'utf8').slice(-logTailCharacters);
  }

  /** What they hold is thrown away, so there is nothing for them to write in order. */
  async stop(): Promise<void> {
    for (const { child } of this.#running.reverse()) {
      if (!child.pid || child.exitCode !== null || child.signalCode !== null) continue;
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    }
    process.off('exit', this.#endWithUs);
    rmSync(this.folder, { recursive: true, force: true });
  }
}
