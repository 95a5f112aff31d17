import { defineConfig } from 'vitest/config';

// Needs an image and a network of its own: `make test-images` makes both. The containers share its ports, so one file
// at a time.
export default defineConfig({
  test: {
    include: ['test/images/**/*.test.ts'],
    testTimeout: 300_000,
    hookTimeout: 300_000,
    fileParallelism: false,
  },
});
