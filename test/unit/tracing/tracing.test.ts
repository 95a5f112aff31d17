import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { childEnvironment, otlpProtocol } from '../../../src/config.ts';
import { startSpan, traceOf } from '../../../src/tracing/tracing.ts';

test('off by default: no span, and nothing of OpenTelemetry is imported until it is on', () => {
  expect(startSpan('x')).toBeUndefined();
  const folder = path.resolve(import.meta.dirname, '../../../src');
  const facade = readFileSync(path.join(folder, 'tracing/tracing.ts'), 'utf8');
  expect(facade).not.toContain("from '@opentelemetry");
  expect(facade).toContain("await import('./otlp.ts')");
});

const collector = 'http://127.0.0.1:4318';
test.each([
  [{}, undefined],
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: '' }, undefined],
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: collector }, 'http/protobuf'],
  [{ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${collector}/v1/traces` }, 'http/protobuf'],
  [{ OTEL_TRACES_EXPORTER: 'otlp' }, 'http/protobuf'],
  [
    { OTEL_EXPORTER_OTLP_ENDPOINT: collector, OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json' },
    'http/json',
  ],
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: collector, OTEL_TRACES_EXPORTER: 'none' }, undefined],
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: collector, OTEL_SDK_DISABLED: 'true' }, undefined],
])('the standard variables decide: %o', (env, protocol) => {
  expect(otlpProtocol(env)).toBe(protocol);
});

test('a protocol that is not spoken is named at the start', () => {
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: collector, OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' };
  expect(() => otlpProtocol(env)).toThrow('http/protobuf or http/json');
});

test('a device process learns nothing of the collector: its headers may be secret', () => {
  const env = { OTEL_EXPORTER_OTLP_HEADERS: 'authorization=x', PATH: '/bin' };
  expect(childEnvironment(env)).toEqual({ PATH: '/bin' });
});

test('log lines name the trace when there is one', () => {
  expect(traceOf('00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01')).toEqual({
    trace: '0af7651916cd43dd8448eb211c80319c',
  });
  expect(traceOf(undefined)).toEqual({});
});
