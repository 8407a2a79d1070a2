// Builds the committed files, into dist/ or the directory given. The package's types are made from the same sources.
import { writeFile } from 'node:fs/promises';
import { build } from 'esbuild';
import { minify } from 'terser';

const directory = process.argv[2] ?? 'dist';
const entries = { 'src/index.ts': 'topostream.js', 'src/tabs.ts': 'topostream-tabs.js', 'src/react.ts': 'react.js' };
for (const [entry, name] of Object.entries(entries)) {
  const { outputFiles: [{ text }] } = await build({
    entryPoints: [entry], bundle: true, format: 'esm', platform: 'neutral', target: 'es2022', charset: 'utf8',
    // A name that begins with an underscore is the library's own: no user sees it, so it may be short.
    minify: true, mangleProps: /^_/, external: ['react'],
    legalComments: 'none', write: false, logLevel: 'warning',
  });
  const { code } = await minify(text, {
    module: true,
    compress: { // what is off makes the file shorter, but not gzipped
      passes: 3, ecma: 2022, unsafe_arrows: true, pure_getters: true, hoist_vars: true, conditionals: false,
      if_return: false, inline: false, sequences: false, collapse_vars: false, evaluate: false, unsafe_methods: true,
      ...(name === 'topostream-tabs.js' && { hoist_vars: false, inline: true, evaluate: true }),
    },
    format: { preamble: '// topostream, Apache-2.0', ecma: 2022 },
  });
  await writeFile(`${directory}/${name}`, code + '\n');
}
