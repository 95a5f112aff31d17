/** Takes secrets out of log lines, wherever in a line they are. The last look before a line is written. */

const censored = '[redacted]';
/** A shorter one is no secret, and would be found everywhere. */
const shortestSecret = 6;

/**
 * A line may hold what any client sent, and its writer waits: each of these takes time in proportion to the line,
 * whatever is in it. So none looks for the scheme of a URL, which could begin at every letter of a long word, and the
 * look back from a `?` to its `://` ends at the `?` before.
 */
const patterns: [RegExp, string][] = [
  // A URL's user and password, and its query: signed URLs carry their signature there.
  [/:\/\/[^\s"'\\/?#@]+@/g, `://${censored}@`],
  [/\?(?<=:\/\/[^\s"'\\?#]+\?)[^\s"'\\]+/g, `?${censored}`],
  [/\b(Bearer|Basic)(\s+)[\w.~+/=-]{12,}/gi, `$1$2${censored}`],
  // API keys (src/commands/keys.ts) and webhook secrets (Standard Webhooks), ours or not.
  [/\bpisa_[\w-]{43}(?![\w-])/g, `pisa_${censored}`],
  [/\bwhsec_[\w+/=-]{8,}/g, `whsec_${censored}`],
  [/\b(X-Amz-(?:Signature|Credential|Security-Token)[=:])[^\s"'\\&]+/gi, `$1${censored}`],
];

/**
 * @param secrets as they are configured; each is found also where JSON escapes it
 * @returns what turns a line into one that may be kept
 */
export function createScrub(secrets: readonly string[]): (line: string) => string {
  const known = [...new Set(secrets)]
    .filter((secret) => secret.length >= shortestSecret)
    .flatMap((secret) => [...new Set([secret, JSON.stringify(secret).slice(1, -1)])])
    // A longer one may contain a shorter one.
    .sort((a, b) => b.length - a.length);
  return (line) => {
    let clean = line;
    for (const secret of known) clean = clean.replaceAll(secret, censored);
    for (const [pattern, replacement] of patterns) clean = clean.replace(pattern, replacement);
    return clean;
  };
}
