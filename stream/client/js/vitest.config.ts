import { defineConfig } from 'vitest/config';

// Two workers: the machines that run the gate have other things to do.
export default defineConfig({ test: { include: ['test/**/*.test.{ts,tsx}'], maxWorkers: 2 } });
