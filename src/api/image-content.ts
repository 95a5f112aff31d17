/** What OpenAPI says of the bytes of an image. */
import { contentTypeOf } from '../jobs/params.ts';

const binary = { type: 'string', format: 'binary' };

/** As the value of one content type. */
export const imageBytes = { schema: binary };

/** The `content` of an answer that is an image of any type that we make. */
export const imageContent = Object.fromEntries(
  Object.values(contentTypeOf).map((type) => [type, imageBytes]),
);

/** A file of a form. */
export const fileProperty = (description?: string) =>
  description === undefined ? binary : { ...binary, description };
