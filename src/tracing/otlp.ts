/** The one file that loads OpenTelemetry: spans go in batches to a collector, as the OTEL_* variables say. */
import {
  DiagLogLevel,
  diag,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  trace,
} from '@opentelemetry/api';
import { parseTraceParent } from '@opentelemetry/core';
import {
  defaultResource,
  detectResources,
  envDetector,
  resourceFromAttributes,
} from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base';
import type { OtlpProtocol } from '../config.ts';
import type { SpanOptions, Tracer, TraceSpan, TracingOptions } from './tracing.ts';

const kinds = {
  server: SpanKind.SERVER,
  producer: SpanKind.PRODUCER,
  consumer: SpanKind.CONSUMER,
  client: SpanKind.CLIENT,
};

export async function createTracer(options: TracingOptions): Promise<Tracer> {
  const { protocol, serviceName, serviceVersion, logger } = options;
  const warn = (message: string, ...details: unknown[]) =>
    logger.warn({ details: details.map(String) }, `traces: ${message}`);
  const silent = () => {};
  diag.setLogger(
    { error: warn, warn, info: silent, debug: silent, verbose: silent },
    { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
  );
  const provider = new BasicTracerProvider({
    resource: defaultResource()
      .merge(
        resourceFromAttributes({ 'service.name': serviceName, 'service.version': serviceVersion }),
      )
      .merge(detectResources({ detectors: [envDetector] })),
    spanProcessors: [new BatchSpanProcessor(await createExporter(protocol))],
  });
  const tracer = provider.getTracer('pisa-serve', serviceVersion);

  return {
    startSpan: (name, { kind, parent, startMs, attributes = {} }: SpanOptions): TraceSpan => {
      const remote = parent === undefined ? null : parseTraceParent(parent);
      const context = remote
        ? trace.setSpanContext(ROOT_CONTEXT, { ...remote, isRemote: true })
        : ROOT_CONTEXT;
      const span = tracer.startSpan(
        name,
        {
          kind: kind ? kinds[kind] : SpanKind.INTERNAL,
          attributes,
          ...(startMs === undefined ? {} : { startTime: startMs }),
        },
        context,
      );
      const { traceId, spanId, traceFlags } = span.spanContext();
      const sampled = (traceFlags & TraceFlags.SAMPLED) === 0 ? '00' : '01';
      return {
        traceparent: `00-${traceId}-${spanId}-${sampled}`,
        set: (more) => span.setAttributes(more),
        end: ({ endMs, error } = {}) => {
          if (error !== undefined) {
            span.setStatus({ code: SpanStatusCode.ERROR }).setAttribute('error.type', error);
          }
          span.end(endMs);
        },
      };
    },
    shutdown: () => provider.shutdown(),
  };
}

/** Address, headers, compression and time limit are read by the exporter itself, from OTEL_EXPORTER_OTLP_*. */
async function createExporter(protocol: OtlpProtocol) {
  const { OTLPTraceExporter } = await (protocol === 'http/json'
    ? import('@opentelemetry/exporter-trace-otlp-http')
    : import('@opentelemetry/exporter-trace-otlp-proto'));
  return new OTLPTraceExporter();
}
