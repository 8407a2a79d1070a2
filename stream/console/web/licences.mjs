// Writes what the page holds, and under which licences, into LICENSES, or into the file that it is given.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';

const read = (path) => readFileSync(new URL(path, import.meta.url), 'utf8');
const { dependencies } = JSON.parse(read('package.json'));

/** A dependency and all that it needs itself. */
const found = new Map();
const add = (name) => {
  if (found.has(name)) return;
  const about = JSON.parse(read(`node_modules/${name}/package.json`));
  const file = readdirSync(new URL(`node_modules/${name}/`, import.meta.url)).find((f) => /^licen[cs]e/i.test(f));
  if (!file) throw new Error(`${name} comes without a licence`);
  found.set(name, { ...about, text: read(`node_modules/${name}/${file}`).replace(/\r/g, '').trim() });
  for (const dependency of Object.keys(about.dependencies ?? {})) add(dependency);
};
for (const name of Object.keys(dependencies)) add(name);

const parts = [...found.values()].sort((a, b) => a.name < b.name ? -1 : 1)
  .map(({ name, version, license, text }) => ({ title: `${name} ${version} (${license})`, text }));
parts.push({ title: 'IBM Plex Sans and Plex Mono (OFL-1.1), cut to Latin', text: read('src/fonts/OFL.txt').trim() });

const line = '-'.repeat(80);
const text = 'The console of topostream is under the Apache License 2.0. It holds:\n\n'
  + parts.map(({ title }) => `- ${title}\n`).join('')
  + parts.map(({ title, text }) => `\n${line}\n${title}\n${line}\n\n${text}\n`).join('');
writeFileSync(process.argv[2] ?? new URL('LICENSES', import.meta.url), text);
