/**
 * The configuration: the settings of `config/settings.ts` as the environment has them. The only file that reads the
 * environment: parsed once at start, frozen, passed on as an argument.
 */
import type { Setting } from './config/setting-kinds.ts';
import { settings } from './config/settings.ts';
import { AppError, expected } from './errors.ts';

type Settings = typeof settings;
type SettingName = keyof Settings;

/** The parsed settings, under their environment names. */
export type Config = {
  readonly [Name in SettingName]: Settings[Name]['default'] extends readonly string[]
    ? readonly string[]
    : Settings[Name]['default'];
};

/**
 * @throws invalid_config naming every faulty setting at once, with its expected format
 */
export function loadConfig(env: Record<string, string | undefined> = process.env): Config {
  const faults: string[] = [];
  const values = Object.entries(settings).map(([name, setting]) => {
    const raw = env[name];
    if (raw === undefined || raw === '') return [name, setting.default];
    const value = (setting as Setting<unknown>).parse(raw);
    if (value === undefined) {
      const shown = 'secret' in setting ? '(a secret, not shown)' : raw;
      faults.push(expected(setting.format, name, shown));
    }
    return [name, value];
  });
  if (faults.length > 0) {
    throw new AppError('invalid_config', `${faults.join('.\n')}.`);
  }
  return Object.freeze(Object.fromEntries(values)) as Config;
}

/**
 * The environment for a device process: ours without our settings, some of which are secrets. It gets what it
 * needs of them in a message.
 */
export function childEnvironment(
  env: Record<string, string | undefined> = process.env,
): Record<string, string | undefined> {
  const isOurs = (name: string) => name in settings || name.startsWith('OTEL_');
  return Object.fromEntries(Object.entries(env).filter(([name]) => !isOurs(name)));
}

const otlpProtocols = ['http/protobuf', 'http/json'] as const;
export type OtlpProtocol = (typeof otlpProtocols)[number];

/**
 * OpenTelemetry has standard variables of its own, which its SDK reads. Here only: are there traces at all?
 * @returns undefined unless a collector is named (or `OTEL_TRACES_EXPORTER=otlp`: the one on this machine)
 * @throws invalid_config for a protocol that we do not speak
 */
export function otlpProtocol(
  env: Record<string, string | undefined> = process.env,
): OtlpProtocol | undefined {
  const exporter = env.OTEL_TRACES_EXPORTER?.trim() ?? '';
  const endpoint = env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT || env.OTEL_EXPORTER_OTLP_ENDPOINT;
  const isOff = env.OTEL_SDK_DISABLED?.trim().toLowerCase() === 'true' || exporter === 'none';
  if (isOff || (exporter !== 'otlp' && !endpoint)) return undefined;
  const named = env.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL || env.OTEL_EXPORTER_OTLP_PROTOCOL;
  const protocol = otlpProtocols.find((known) => known === (named || 'http/protobuf'));
  if (protocol) return protocol;
  throw new AppError(
    'invalid_config',
    `${expected(otlpProtocols.join(' or '), 'OTEL_EXPORTER_OTLP_PROTOCOL', named)}.`,
  );
}
