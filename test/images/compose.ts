/** compose.yaml as Docker Compose understands it. */
import { type Ended, run, tool } from './tools.ts';

/** What of a service matters here. Anchors, variables and defaults are filled in, paths are absolute. */
export interface ComposeService {
  image: string;
  entrypoint?: string[] | null;
  command?: string[] | null;
  environment?: Record<string, string | null>;
  read_only?: boolean;
  cap_drop?: string[];
  security_opt?: string[];
  tmpfs?: string[];
  volumes?: { type: 'volume' | 'bind'; source?: string; target: string; read_only?: boolean }[];
  ports?: { host_ip?: string; target: number }[];
  healthcheck?: { test: string[] };
  /** As in `40s`. */
  stop_grace_period?: string;
}

export const composeConfig = (file: string, ...profiles: string[]): Promise<Ended> =>
  run(tool('compose-config'), file, ...profiles);

/** The services of compose.yaml. @throws what does not fit in it */
export async function composeServices(
  ...profiles: string[]
): Promise<Record<string, ComposeService>> {
  const { code, stdout, stderr } = await composeConfig('compose.yaml', ...profiles);
  if (code !== 0) throw new Error(stderr);
  return (JSON.parse(stdout) as { services: Record<string, ComposeService> }).services;
}
