/** What OpenAPI says of the form fields of strength maps. */
import { fileProperty } from './image-content.ts';
import { mapFields } from './upload-faults.ts';

export const mapProperties = Object.fromEntries(
  Object.entries(mapFields).map(([dial, field]) => [
    field,
    fileProperty(
      `An image over the whole photo, of any size: where it is white, \`${dial}\` holds, where it is black 0, in between a part of it.`,
    ),
  ]),
);
