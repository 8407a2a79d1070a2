import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const licences = {
  name: 'licences',
  generateBundle(this: { emitFile: (file: { type: 'asset'; fileName: string; source: string }) => void }) {
    const source = readFileSync(new URL('LICENSES', import.meta.url), 'utf8');
    this.emitFile({ type: 'asset', fileName: 'LICENSES.txt', source });
  },
};

// The page is served at /, what it loads below /console/. The names of built files have no hash: the committed build
// changes in place, and the server gives each an ETag.
export default defineConfig({
  base: '/console/',
  plugins: [licences],
  resolve: {
    alias: { topostream: fileURLToPath(new URL('../../client/js/src/index.ts', import.meta.url)) },
  },
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    outDir: '../dist',
    emptyOutDir: true,
    target: 'es2022',
    assetsInlineLimit: 0, // the policy allows no data: address
    modulePreload: { polyfill: false },
    rolldownOptions: {
      output: {
        entryFileNames: 'console.js',
        chunkFileNames: '[name].js',
        assetFileNames: '[name][extname]',
      },
    },
  },
  server: { proxy: { '/api': 'http://127.0.0.1:8080', '/topostream.js': 'http://127.0.0.1:8080' } },
  // Two workers, and patience: the machines that run the gate have other things to do.
  test: {
    environment: 'happy-dom', include: ['test/**/*.test.{ts,tsx}'], maxWorkers: 2, testTimeout: 60_000,
  },
});
