/** openapi.yaml, generated from the schemas of the routes: they are the contract, this only prints it. */
import swagger from '@fastify/swagger';
import { description, version } from '../package-info.ts';
import { jobSchema } from './job-object.ts';
import { problemSchema } from './problem-schema.ts';
import { modelListSchema } from './routes/list-models.ts';
import type { App } from './services.ts';
import { webhooks } from './webhook-schema.ts';

/** Call before any route is registered. */
export async function registerOpenapi(app: App): Promise<void> {
  for (const shared of [problemSchema, jobSchema, modelListSchema]) app.addSchema(shared);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'pisa-serve',
        version,
        description: [
          description,
          '',
          'Every fault is answered as an RFC 9457 problem object with a stable `code`. A path that does not exist answers `404 not_found`; a method that a path does not take, `405 method_not_allowed` with `Allow`. Parameters that are not documented are refused, not ignored, but by `/healthz` and `/metrics`. Fields may be added to answers and webhooks.',
          '',
          'Every answer carries `X-Request-Id`: the one of the request, or a new one. The logs of api and worker carry it too.',
        ].join('\n'),
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      servers: [{ url: '/', description: 'The service that answers this document.' }],
      // Where API_KEYS_FILE is set one of the two is asked for, else none.
      components: {
        securitySchemes: {
          bearer: { type: 'http', scheme: 'bearer' },
          apiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key' },
        },
      },
      security: [{}, { bearer: [] }, { apiKey: [] }],
      webhooks,
      tags: [
        { name: 'upscale', description: 'Upscale images.' },
        { name: 'service', description: 'About the service itself.' },
        { name: 'webhooks', description: 'What the service sends.' },
      ],
    },
    // The plugin holds every body to be required; an adjust without maps has none.
    transformObject: (document) => {
      if (!('openapiObject' in document)) return document.swaggerObject;
      const adjust = document.openapiObject.paths?.['/upscale/{id}/adjust']?.post?.requestBody;
      if (adjust && 'content' in adjust) adjust.required = false;
      return document.openapiObject;
    },
    refResolver: {
      // Components under the name that the schema gives itself, not `def-0`.
      buildLocalReference: (json, _base, _fragment, index) => String(json.$id ?? `def-${index}`),
    },
  });
}
