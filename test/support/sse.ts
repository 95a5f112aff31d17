/** A client of server-sent events, as strict as a browser: keeps what came, and waits for what is to come. */
interface SseEvent {
  name: string;
  id?: string;
  data: Record<string, unknown>;
}

export interface SseStream {
  readonly status: number;
  readonly headers: Headers;
  readonly events: SseEvent[];
  /** Comment lines: signs of life. */
  readonly comments: string[];
  /** Resolves when an event fits, counting those that have come. Rejects when the stream ends before. */
  until(fits: (event: SseEvent) => boolean): Promise<SseEvent>;
  /** Resolves when the server has ended the stream. */
  readonly ended: Promise<void>;
  leave(): void;
}

export async function openStream(
  url: string,
  { lastEventId, headers = {} }: { lastEventId?: string; headers?: Record<string, string> } = {},
): Promise<SseStream> {
  const abort = new AbortController();
  const response = await fetch(url, {
    headers: { ...headers, ...(lastEventId === undefined ? {} : { 'last-event-id': lastEventId }) },
    signal: abort.signal,
  });
  const events: SseEvent[] = [];
  const comments: string[] = [];
  let wake = () => {};
  let over = false;
  const read = async () => {
    let text = '';
    const decoder = new TextDecoder();
    try {
      for await (const chunk of response.body ?? []) {
        text += decoder.decode(chunk, { stream: true });
        const blocks = text.split('\n\n');
        text = blocks.pop() ?? '';
        for (const block of blocks) take(block);
        wake();
      }
    } catch (error) {
      if (!abort.signal.aborted) throw error;
    } finally {
      over = true;
      wake();
    }
  };
  const take = (block: string) => {
    const event: Partial<SseEvent> = {};
    for (const line of block.split('\n')) {
      const [field = '', ...rest] = line.split(': ');
      const value = rest.join(': ');
      if (line.startsWith(':')) comments.push(line);
      else if (field === 'event') event.name = value;
      else if (field === 'id') event.id = value;
      else if (field === 'data') event.data = JSON.parse(value) as Record<string, unknown>;
      else if (field !== 'retry') throw new Error(`Not a field of an event: ${line}`);
    }
    if (event.name !== undefined && event.data !== undefined) events.push(event as SseEvent);
  };
  const ended = read();
  ended.catch(() => {});
  return {
    status: response.status,
    headers: response.headers,
    events,
    comments,
    ended,
    until: async (fits) => {
      for (;;) {
        const found = events.find(fits);
        if (found) return found;
        if (over) {
          throw new Error(`The stream ended without it: ${events.map(({ name }) => name)}`);
        }
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    leave: () => abort.abort(),
  };
}
