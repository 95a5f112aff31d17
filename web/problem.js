/** What went wrong, in the words of the API (RFC 9457). */

/**
 * What this page reads of a problem object.
 * @typedef {object} ProblemObject
 * @property {string} title
 * @property {string} [detail]
 * @property {string} [code]
 * @property {{ pointer: string, maximum?: number }[]} [errors]
 */

/** What a proxy answers for a service that has gone or is being started. */
const proxyStatuses = [502, 503, 504];

/** What the API finds wrong with a photo stays wrong with it. */
const photoStatuses = [400, 413, 415, 422];

export class Problem extends Error {
  /** @param {ProblemObject & { status?: number }} problem */
  constructor({ title, detail = '', status = 0, code = '', errors = [] }) {
    super(title);
    this.title = title;
    this.detail = detail;
    /** Of the answer; 0 where there was none. */
    this.status = status;
    this.code = code;
    this.errors = errors;
  }

  /** True where the same photo would meet it again. */
  get isOfThePhoto() {
    return photoStatuses.includes(this.status) && this.code !== 'unknown_model';
  }
}

/**
 * @param {unknown} error
 * @returns {number | undefined} the largest scale that would do, where the photo is too large for the one asked for
 */
export function fittingScale(error) {
  if (!(error instanceof Problem)) return undefined;
  return error.errors.find(({ pointer }) => pointer === '#/query/scale')?.maximum;
}

/** No answer, or one that broke off. */
export class Unreachable extends Problem {
  constructor() {
    super({
      title: 'The service cannot be reached',
      detail: 'It may have stopped, or the connection to it may be down.',
    });
  }
}

/**
 * @param {Response} response one that is not ok
 * @returns {Promise<Problem>}
 */
export async function readProblem(response) {
  const { status } = response;
  if (response.headers.get('content-type')?.startsWith('application/problem+json')) {
    return new Problem({ ...(await response.json()), status });
  }
  if (proxyStatuses.includes(status)) return new Unreachable();
  return new Problem({
    title: `HTTP status ${status}`,
    detail: 'The answer came from something between this page and the service, such as a proxy.',
    status,
  });
}
