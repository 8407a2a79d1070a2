// Builds the committed files of dist/. The types of the package are made from the same sources by tsc.
import { build } from 'esbuild';

const banner = { js: '// topostream, Apache-2.0. Built from stream/client/js/src by build.mjs: change that, not this.' };
const common = {
  bundle: true, format: 'esm', platform: 'neutral', target: 'es2022', minify: true, charset: 'utf8', banner,
  // A name that begins with an underscore is the library's own: no user sees it, so it may be short.
  mangleProps: /^_/, lineLimit: 120, legalComments: 'none', logLevel: 'warning',
};
await build({ ...common, entryPoints: ['src/index.ts'], outfile: 'dist/topostream.js' });
await build({ ...common, entryPoints: ['src/core.ts'], outfile: 'dist/core.js' });
await build({ ...common, entryPoints: ['src/react.ts'], outfile: 'dist/react.js', external: ['react'] });
