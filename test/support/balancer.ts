/**
 * A TCP load balancer as small as one can be: new connections go, in turn, to those instances whose `/readyz` says yes;
 * what is open stays where it is. What a Service of Kubernetes does, with the time that it takes to notice.
 */
import { once } from 'node:events';
import { get } from 'node:http';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

export class Balancer {
  readonly #server: Server;
  readonly #checkMs: number;
  readonly #instances = new Map<string, { isReady: boolean }>();
  readonly #sockets = new Set<Socket>();
  #turn = 0;
  #closed = false;

  private constructor(checkMs: number) {
    this.#checkMs = checkMs;
    this.#server = createServer((client) => this.#connect(client));
  }

  /** @param checkMs how often it asks each instance whether it is ready */
  static async start(checkMs: number): Promise<Balancer> {
    const balancer = new Balancer(checkMs);
    balancer.#server.listen(0, '127.0.0.1');
    await once(balancer.#server, 'listening');
    return balancer;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Resolves when it gets connections. */
  async add(url: string): Promise<void> {
    const instance = { isReady: false };
    this.#instances.set(url, instance);
    void this.#watch(url, instance);
    while (!instance.isReady && !this.#closed) await delay(this.#checkMs);
  }

  /** For one that has ended. */
  forget(url: string): void {
    this.#instances.delete(url);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  async #watch(url: string, instance: { isReady: boolean }): Promise<void> {
    while (!this.#closed && this.#instances.has(url)) {
      instance.isReady = await isReady(url);
      await delay(this.#checkMs);
    }
  }

  #connect(client: Socket): void {
    const ready = [...this.#instances].filter(([, { isReady }]) => isReady);
    const [url] = ready[this.#turn % Math.max(1, ready.length)] ?? [];
    this.#turn += 1;
    if (url === undefined) {
      client.destroy();
      return;
    }
    const { hostname, port } = new URL(url);
    const instance = connect(Number(port), hostname);
    for (const [from, to] of [
      [client, instance],
      [instance, client],
    ] as const) {
      this.#sockets.add(from);
      from.pipe(to);
      // One that breaks breaks the other: the client notices, as it would without us.
      from.on('error', () => to.destroy());
      from.on('close', () => {
        this.#sockets.delete(from);
        to.destroySoon();
      });
    }
  }
}

/** Each time on a connection of its own, as a kubelet asks. */
const isReady = (url: string): Promise<boolean> =>
  new Promise((resolve) => {
    const request = get(`${url}/readyz?exclude=devices`, { agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    request.on('error', () => resolve(false));
  });
