/** What went wrong, in the words of the API (RFC 9457). */

export class Problem extends Error {
  /** @param {{ title: string, detail?: string, status?: number }} problem */
  constructor({ title, detail = '', status = 0 }) {
    super(title);
    this.title = title;
    this.detail = detail;
    /** Of the answer; 0 where there was none. */
    this.status = status;
  }
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
  return new Problem({
    title: `HTTP status ${status}`,
    detail: 'The answer came from something between this page and the service, such as a proxy.',
    status,
  });
}
