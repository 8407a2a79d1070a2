import { defineConfig } from 'vitest/config';

// Two workers, and patience: the machines that run the gate have other things to do.
export default defineConfig({ test: { include: ['test/**/*.test.{ts,tsx}'], maxWorkers: 2, testTimeout: 30_000 } });
