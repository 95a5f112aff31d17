/**
 * Spans of the way of a job: request → queue → worker → stages → webhook. Off by default, and then nothing of
 * OpenTelemetry is loaded: `startSpan` returns undefined. Its `traceparent` (W3C) travels in the job's data.
 */
import type { Logger } from 'pino';
import type { OtlpProtocol } from '../config.ts';

type Attributes = Record<string, string | number | boolean>;

export interface SpanOptions {
  /** Default: internal. */
  kind?: 'server' | 'producer' | 'consumer' | 'client';
  /** Absent or not one: the span begins a trace of its own. */
  parent?: string | undefined;
  /** Epoch milliseconds. Default: now. */
  startMs?: number | undefined;
  attributes?: Attributes;
}

export interface TraceSpan {
  readonly traceparent: string;
  set(attributes: Attributes): void;
  /**
   * @param end `endMs`: epoch milliseconds, default now; `error`: what went wrong, a code of ours
   */
  end(end?: { endMs?: number | undefined; error?: string | undefined }): void;
}

type StartSpan = (name: string, options: SpanOptions) => TraceSpan;

export interface TracingOptions {
  protocol: OtlpProtocol;
  /** `service.name`, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say it. */
  serviceName: string;
  serviceVersion: string;
  logger: Logger;
}

export interface Tracer {
  startSpan: StartSpan;
  /** Sends what has ended. */
  shutdown(): Promise<void>;
}

let tracer: Tracer | undefined;

/** @returns undefined while traces are off */
export function startSpan(name: string, options: SpanOptions = {}): TraceSpan | undefined {
  return tracer?.startSpan(name, options);
}

/** @returns a function that sends what has ended, and ends tracing */
export async function startTracing(options: TracingOptions): Promise<() => Promise<void>> {
  const { createTracer } = await import('./otlp.ts');
  const started = await createTracer(options);
  tracer = started;
  return async () => {
    tracer = undefined;
    await started.shutdown();
  };
}

/** For log lines: `{ trace }`, or nothing where there is none. */
export function traceOf(traceparent: string | undefined): { trace?: string } {
  const trace = traceparent?.split('-')[1];
  return trace === undefined ? {} : { trace };
}
