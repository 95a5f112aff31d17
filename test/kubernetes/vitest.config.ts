import { defineConfig } from 'vitest/config';

// Needs Kubernetes' programs: `make test-kubernetes` builds them. Two control planes at once would be too much.
export default defineConfig({
  test: {
    include: ['test/kubernetes/**/*.test.ts'],
    testTimeout: 900_000,
    hookTimeout: 600_000,
    fileParallelism: false,
  },
});
