/** GET /: the playground, a page that uses this API as any other client would. Its files are those of `web/`. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { matchesEtag } from './result-headers.ts';
import type { App } from './services.ts';

/** At the root of the package, beside `src/` and `dist/`. */
export const webFolder = path.resolve(import.meta.dirname, '../../web');

const contentTypes: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.jpg': 'image/jpeg',
};

const headers = {
  // Asked for each time, and answered 304: after an upgrade no old script meets a new API.
  'cache-control': 'no-cache',
  'content-security-policy': [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    // blob: the photo and the results, which are fetched with the key.
    "img-src 'self' blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; '),
  'referrer-policy': 'no-referrer',
};

/** A route for each file, read once: no path of a request ever reaches the file system. */
export async function registerPlayground(app: App): Promise<void> {
  for (const name of await readdir(webFolder)) {
    const type = contentTypes[path.extname(name)];
    if (type === undefined) continue;
    const bytes = await readFile(path.join(webFolder, name));
    // Of the content, so that all instances of the API agree.
    const etag = `"${createHash('sha256').update(bytes).digest('base64url')}"`;
    const url = name === 'index.html' ? '/' : `/playground/${name}`;
    app.get(url, { schema: { hide: true } }, async (request, reply) => {
      reply.headers({ ...headers, etag });
      if (matchesEtag(request.headers['if-none-match'], etag)) return reply.code(304).send();
      return reply.type(type).send(bytes);
    });
  }
}
