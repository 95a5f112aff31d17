import { defineConfig } from 'vitest/config';

// Needs Helm: `make test-kubernetes` builds it.
export default defineConfig({
  test: { include: ['test/kubernetes/**/*.test.ts'], testTimeout: 300_000, hookTimeout: 300_000 },
});
