/** What OpenAPI says of the requests that we send ourselves (src/webhooks): for whoever writes their receiver. */
import Type from 'typebox';
import { isFinal, jobStatuses } from '../jobs/job-snapshot.ts';
import { oneOf } from '../jobs/params.ts';

const eventTypes = jobStatuses.filter(isFinal).map((status) => `upscale.${status}`);

const eventSchema = Type.Object({
  type: oneOf(eventTypes, { description: 'How the job has ended.' }),
  timestamp: Type.String({ format: 'date-time', description: 'When the job ended.' }),
  // The document is given as it is, so this names the component, not the schema's id.
  data: Type.Unsafe({ $ref: '#/components/schemas/Job' }),
});

const header = (name: string, schema: object, description: string) => ({
  name,
  in: 'header' as const,
  required: true,
  schema,
  description,
});

export const webhooks = {
  upscaleEnded: {
    post: {
      operationId: 'upscaleEnded',
      // Of its own: openapi-generator writes a class for each tag, and one for webhooks over that of the same name.
      tags: ['webhooks'],
      summary: 'A job has ended',
      description:
        'Sent to the `webhook` of a request, signed by the Standard Webhooks specification: docs/webhooks.md says how to verify it. It may come more than once, with the same `webhook-id`.',
      security: [],
      parameters: [
        header('webhook-id', { type: 'string', format: 'uuid' }, 'The id of the job.'),
        header(
          'webhook-timestamp',
          { type: 'integer', minimum: 0 },
          'When this attempt was made, in seconds since 1970.',
        ),
        header(
          'webhook-signature',
          { type: 'string', pattern: '^v1,[A-Za-z0-9+/]{43}=( v1,[A-Za-z0-9+/]{43}=)*$' },
          '`v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`; one for each secret, separated by blanks.',
        ),
      ],
      requestBody: { required: true, content: { 'application/json': { schema: eventSchema } } },
      responses: {
        '2XX': { description: 'Delivered.' },
        410: { description: 'No further attempt is made.' },
        default: { description: 'Tried again later (WEBHOOK_RETRY_SECONDS).' },
      },
    },
  },
};
