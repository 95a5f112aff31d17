/** The programs that scripts/kubernetes-tools.sh builds. */
import path from 'node:path';

/** @throws when the tests run without `make` */
export function tool(name: string): string {
  const folder = process.env.KUBERNETES_TOOLS;
  if (folder) return path.join(folder, name);
  throw new Error(
    'KUBERNETES_TOOLS is not set: run `make test-kubernetes`, which builds the tools.',
  );
}
