import { defineConfig } from 'vitest/config';

/** On a busy machine a step may take seconds. Vitest's own limit is one. */
const expectLimits = { poll: { timeout: 30_000 } };

// Four levels (docs/development.md). Integration and e2e start real processes, so they run one file at a time.
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/unit/**/*.test.ts'],
          testTimeout: 60_000,
          expect: expectLimits,
        },
      },
      {
        test: {
          name: 'service',
          include: [
            'test/contract/**/*.test.ts',
            'test/integration/**/*.test.ts',
            'test/e2e/**/*.test.ts',
          ],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          fileParallelism: false,
          expect: expectLimits,
        },
      },
      {
        // Needs Prometheus and promtool: `make test-observability`.
        test: {
          name: 'observability',
          include: ['test/observability/**/*.test.ts'],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          fileParallelism: false,
          expect: expectLimits,
        },
      },
    ],
  },
});
