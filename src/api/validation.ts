/** Checks of query and path, and their wording: every fault names the parameter, what it takes and what came. */
import { Ajv, type ErrorObject } from 'ajv';
import { AppError, expected, type FieldError } from '../errors.ts';
import type { App } from './services.ts';

interface PropertySchema {
  type?: string;
  minimum?: number;
  maximum?: number;
  enum?: readonly string[];
  pattern?: string;
  /** What it takes, in words: for a pattern that few would read. */
  title?: string;
}

const ajv = new Ajv({
  // Query and path are text: "1.2" is a number where the schema asks for one, and "NaN" or "1,5" is not.
  coerceTypes: true,
  // A name we do not know is a fault to report, not to drop: `?pixx=2` must not silently run with pix = 1.
  removeAdditional: false,
  // Whether the client named a format decides how Accept is read: defaults are filled in by `resolveParams`.
  useDefaults: false,
  allErrors: true,
  verbose: true,
  // Schemas carry keywords that are for OpenAPI alone.
  strict: false,
  // Said for generated clients. A URL is checked where it is used, and its fault has a code of its own.
  formats: { uri: true },
});

/** A query of 16 KiB has room for thousands of faults: the first are told, the others counted. */
const mostFaults = 8;

/** The body is checked as it streams in (`upload.ts`), never as a value. */
export function registerValidation(app: App): void {
  app.setValidatorCompiler(({ schema, httpPart }) =>
    httpPart === 'body' ? () => true : ajv.compile(schema as object),
  );
  app.setSchemaErrorFormatter((errors, part) =>
    part === 'params' ? noSuchJob() : toInvalidParameter(errors as ErrorObject[], part),
  );
}

/** An id that no job can have. */
function noSuchJob(): AppError {
  return new AppError('job_not_found', 'The id is not that of a job: ids are UUIDs.');
}

function toInvalidParameter(errors: ErrorObject[], part: string): AppError {
  const place = part === 'querystring' ? 'query' : part;
  const faults = new Map<string, FieldError>();
  for (const error of errors) {
    const fault = toFieldError(error, place);
    if (!faults.has(fault.pointer)) faults.set(fault.pointer, fault);
  }
  const told = [...faults.values()].slice(0, mostFaults);
  const more = faults.size - told.length;
  const sentences = told.map(({ detail }) => `${detail}.`);
  if (more > 0) sentences.push(`And ${more} more.`);
  return new AppError('invalid_parameter', sentences.join(' '), { errors: told });
}

function toFieldError(error: ErrorObject, place: string): FieldError {
  if (error.keyword === 'additionalProperties') {
    const name = String(error.params.additionalProperty);
    const known = Object.keys((error.parentSchema?.properties as object | undefined) ?? {});
    const takes = known.length > 0 ? `one of ${known.join(', ')}` : 'none';
    return {
      pointer: `#/${place}/${escapePointer(name)}`,
      detail: expected(takes, 'the name of a parameter', name),
    };
  }
  const name = error.instancePath.slice(1);
  const received = Array.isArray(error.data) ? `${error.data.length} values` : error.data;
  return {
    pointer: `#/${place}/${name}`,
    detail: expected(describe(error.parentSchema as PropertySchema), name, received),
  };
}

/** What a property takes, in words. */
function describe(schema: PropertySchema): string {
  if (schema.title) return schema.title;
  if (schema.enum) return `one of ${schema.enum.join(', ')}`;
  if (schema.type === 'number' || schema.type === 'integer') {
    const kind = schema.type === 'integer' ? 'a whole number' : 'a number';
    return `${kind} from ${schema.minimum} to ${schema.maximum}`;
  }
  return schema.pattern ? `text of the form ${schema.pattern}` : 'text';
}

/** RFC 6901, section 3. Names are the client's: a huge one is cut, not echoed. */
export const escapePointer = (name: string): string =>
  name.slice(0, 80).replaceAll('~', '~0').replaceAll('/', '~1');
