/** The curl line that `serve` prints: it has to work as printed, wherever the clone lies. */

/** For a POSIX shell, which takes everything between single quotes as it is, but for a single quote. */
export const shellQuoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

/**
 * The value of curl's `-F` that sends a file. Quoted, because curl takes a comma or a semicolon in a bare name for its end;
 * in quotes, `\` and `"` have a `\` before them (curl's manual, `--form`).
 */
export const fileField = (name: string, file: string): string =>
  `${name}=@"${file.replace(/[\\"]/g, '\\$&')}"`;
