/** GET /docs: the contract, to read and to try. `/docs/json` and `/docs/yaml` are the document itself. */
import swaggerUi from '@fastify/swagger-ui';
import type { App } from './services.ts';

export async function registerDocs(app: App): Promise<void> {
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    staticCSP: true,
    // Self-hosted often means plain HTTP on a local network: upgraded to HTTPS, the page would load nothing.
    transformStaticCSP: (policy) => policy.replace('upgrade-insecure-requests;', ''),
    uiConfig: { deepLinking: true, displayRequestDuration: true },
    theme: { title: 'pisa-serve' },
  });
}
