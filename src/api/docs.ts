/** GET /docs/: the contract, to read and to try. `/docs/json` and `/docs/yaml` are the document itself. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import swaggerUi from '@fastify/swagger-ui';
import { webFolder } from './playground.ts';
import type { App } from './services.ts';

const prefix = '/docs';

export async function registerDocs(app: App): Promise<void> {
  const icon = await readFile(path.join(webFolder, 'icon.svg'));
  await app.register(swaggerUi, {
    routePrefix: prefix,
    staticCSP: true,
    transformStaticCSP: (policy) =>
      policy
        // Self-hosted often means plain HTTP on a local network: upgraded to HTTPS, the page would load nothing.
        .replace('upgrade-insecure-requests;', '')
        // blob: is the image that "Try it out" has got.
        .replace('validator.swagger.io', 'blob:'),
    // Without the bar of the other layout, which asks for the URL of another document.
    uiConfig: { layout: 'BaseLayout', deepLinking: true, displayRequestDuration: true },
    theme: {
      title: 'pisa-serve',
      favicon: [
        { filename: 'icon.svg', rel: 'icon', type: 'image/svg+xml', sizes: 'any', content: icon },
      ],
    },
    // Relative to `/docs/json`, so that "Try it out" also works below a path of a proxy.
    transformSpecification: (document) => ({
      ...document,
      servers: [{ url: '../', description: 'The service that answers this document.' }],
    }),
    uiHooks: {
      // The page's URLs are relative only where its own ends in a slash.
      onRequest: async (request, reply) => {
        if (request.url.split('?', 1)[0] === prefix) return reply.redirect('docs/');
      },
    },
  });
}
