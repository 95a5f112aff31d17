/** What OpenAPI says of the form fields of strength maps. */
import { mapFields } from './upload-faults.ts';

export const mapProperties = Object.fromEntries(
  Object.entries(mapFields).map(([dial, field]) => [
    field,
    {
      type: 'string',
      format: 'binary',
      description: `An image over the whole photo, of any size: where it is white, \`${dial}\` holds, where it is black 0, in between a part of it.`,
    },
  ]),
);
