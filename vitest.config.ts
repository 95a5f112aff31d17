import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

/** On a busy machine a step may take seconds. Vitest's own limit is one. */
const expectLimits = { poll: { timeout: 30_000 } };

// Levels of tests: docs/development.md. Integration and e2e start real processes, so they run one file at a time, and
// after the unit tests, which take every core (Vitest's own default leaves one to its main process, which is idle).
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/unit/**/*.test.ts'],
          maxWorkers: availableParallelism(),
          sequence: { groupOrder: 0 },
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
          sequence: { groupOrder: 1 },
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
          sequence: { groupOrder: 1 },
          expect: expectLimits,
        },
      },
    ],
  },
});
