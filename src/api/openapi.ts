/** openapi.yaml, generated from the schemas of the routes: they are the contract, this only prints it. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import swagger from '@fastify/swagger';
import { jobSchema } from './job-object.ts';
import { problemSchema } from './problem-schema.ts';
import { modelListSchema } from './routes/list-models.ts';
import type { App } from './services.ts';

const { version, description } = JSON.parse(
  readFileSync(path.resolve(import.meta.dirname, '../../package.json'), 'utf8'),
) as { version: string; description: string };

/** Call before any route is registered. */
export async function registerOpenapi(app: App): Promise<void> {
  for (const shared of [problemSchema, jobSchema, modelListSchema]) app.addSchema(shared);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'pisa-serve',
        version,
        description,
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      tags: [
        { name: 'upscale', description: 'Upscale images.' },
        { name: 'service', description: 'About the service itself.' },
      ],
    },
    refResolver: {
      // Components under the name that the schema gives itself, not `def-0`.
      buildLocalReference: (json, _base, _fragment, index) => String(json.$id ?? `def-${index}`),
    },
  });
}
