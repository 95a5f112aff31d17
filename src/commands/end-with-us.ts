/** Children that must not outlive this process, however it ends. */
import { type ChildProcess, spawn } from 'node:child_process';

/**
 * In a shell, because what ends the child then has to outlive this process: the pipe from here ends without a word when that
 * is gone. Not by `setpriv --pdeathsig`, which only Linux has.
 */
const script = 'read -r over || kill -TERM "$1"';

/**
 * From now on a child that is still there when this process has ended gets SIGTERM, also when this one was killed outright.
 * Where there is no memory or file handle for the watch, the child runs without.
 * @returns ends the watch, once the child has ended. Resolves when it is gone; never rejects.
 */
export function endWithUs(child: ChildProcess): () => Promise<void> {
  if (child.pid === undefined) return async () => {};
  try {
    // In a group of its own, as Ctrl-C reaches all of the terminal's.
    const watch = spawn('/bin/sh', ['-c', script, 'sh', String(child.pid)], {
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore'],
    });
    const gone = new Promise<void>((resolve) => {
      watch.once('exit', () => resolve());
      watch.once('error', () => resolve());
    });
    watch.stdin.on('error', () => {});
    return () => {
      // A word first: without, it would signal a process id that may be another's by now.
      watch.stdin.end('over\n');
      return gone;
    };
  } catch {
    return async () => {};
  }
}
