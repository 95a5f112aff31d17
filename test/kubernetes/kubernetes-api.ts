/** As much of the Kubernetes API as the tests need, by plain HTTP. */
import { setTimeout as delay } from 'node:timers/promises';
import { Agent, request } from 'undici';

/** An object of Kubernetes, of any kind. In lists `kind` is missing. */
export interface KubernetesObject {
  apiVersion?: string;
  kind?: string;
  metadata: {
    name: string;
    namespace?: string;
    uid?: string;
    generation?: number;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    creationTimestamp?: string;
    deletionTimestamp?: string;
    deletionGracePeriodSeconds?: number;
  };
  // biome-ignore lint/suspicious/noExplicitAny: every kind has its own, and Kubernetes checks it.
  spec?: any;
  // biome-ignore lint/suspicious/noExplicitAny: as spec.
  status?: any;
  data?: Record<string, string>;
}

/** The answer of the API server to a request that it refuses. */
export class Refused extends Error {
  override readonly name = 'Refused';
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const untilLimitMs = 240_000;
const pollMs = 200;

type Method = 'GET' | 'POST' | 'PATCH' | 'DELETE';

export class KubernetesApi {
  readonly #url: string;
  readonly #token: string;
  readonly #ca: string;
  readonly #dispatcher: Agent;

  constructor(url: string, token: string, ca: string) {
    this.#url = url;
    this.#token = token;
    this.#ca = ca;
    this.#dispatcher = new Agent({ connect: { ca } });
  }

  /** The same server, as someone else. */
  as(token: string): KubernetesApi {
    return new KubernetesApi(this.#url, token, this.#ca);
  }

  async isReady(): Promise<boolean> {
    const { statusCode, body } = await this.#send('GET', '/readyz');
    await body.dump();
    return statusCode === 200;
  }

  /** @throws Refused */
  get(path: string): Promise<KubernetesObject> {
    return this.#ask('GET', path) as Promise<KubernetesObject>;
  }

  /**
   * The object, once it is as it shall be. One that is not there yet is waited for.
   * @throws an error that shows how it was last
   */
  async until(
    path: string,
    isRight: (object: KubernetesObject) => unknown,
  ): Promise<KubernetesObject> {
    const deadline = Date.now() + untilLimitMs;
    for (;;) {
      const object = await this.get(path).catch((error: unknown) => {
        if (error instanceof Refused && error.status === 404) return undefined;
        throw error;
      });
      if (object && isRight(object)) return object;
      if (Date.now() > deadline) {
        const last = object ? JSON.stringify({ spec: object.spec, status: object.status }) : 'away';
        throw new Error(`${path} stayed ${last}`);
      }
      await delay(pollMs);
    }
  }

  /** @throws Refused */
  async list(path: string): Promise<KubernetesObject[]> {
    const { items } = (await this.#ask('GET', path)) as { items: KubernetesObject[] };
    return items;
  }

  /** @throws Refused */
  create(path: string, body: object): Promise<KubernetesObject> {
    return this.#ask('POST', path, body, 'application/json') as Promise<KubernetesObject>;
  }

  /**
   * A merge patch.
   * @throws Refused
   */
  patch(path: string, body: object): Promise<KubernetesObject> {
    const type = 'application/merge-patch+json';
    return this.#ask('PATCH', path, body, type) as Promise<KubernetesObject>;
  }

  /** @throws Refused */
  async delete(path: string, body: object = {}): Promise<void> {
    await this.#ask('DELETE', path, body, 'application/json');
  }

  close(): Promise<void> {
    return this.#dispatcher.destroy();
  }

  async #ask(method: Method, path: string, body?: object, type?: string): Promise<unknown> {
    const response = await this.#send(method, path, body, type);
    const text = await response.body.text();
    if (response.statusCode < 300) return JSON.parse(text);
    let message = text;
    try {
      ({ message } = JSON.parse(text) as { message: string });
    } catch {
      // Not all that answers is the API server itself.
    }
    throw new Refused(response.statusCode, `${method} ${path}: ${response.statusCode} ${message}`);
  }

  #send(method: Method, path: string, body?: object, type?: string) {
    return request(this.#url + path, {
      dispatcher: this.#dispatcher,
      method,
      headers: {
        authorization: `Bearer ${this.#token}`,
        ...(type ? { 'content-type': type } : {}),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  }
}
