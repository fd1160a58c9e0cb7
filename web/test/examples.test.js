// The examples of docs/frontend.md: each prints what the block after it says.
import assert from 'node:assert/strict';
import { readFile, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { transformWithOxc } from 'vite';
import { run, start, temporaryDirectory, test, web } from './support.js';

const frontend = await readFile(path.join(web, '../docs/frontend.md'), 'utf8');
const examples = [...frontend.matchAll(/^```(sh|ts|python)\n(.*?)^```\n+```text\n(.*?)^```/gms)];

const interpreters = { sh: 'sh', ts: process.execPath, python: 'python3' };

test('the page has examples in each language', () => {
  const languages = new Set(examples.map(([, language]) => language));
  assert.deepEqual([...languages].sort(), ['python', 'sh', 'ts']);
});

for (const [index, [, language, source, expected]] of examples.entries()) {
  test(`example ${index + 1} (${language}) prints what the page says`, async () => {
    const service = await start();
    const directory = await temporaryDirectory();
    await symlink(path.join(web, 'node_modules'), path.join(directory, 'node_modules'));
    const file = path.join(directory, language === 'ts' ? 'example.mjs' : 'example');
    await writeFile(file, language === 'ts' ? (await transformWithOxc(source, 'example.ts')).code : source);
    const env = { PATH: process.env.PATH, ORDERS_URL: service.url, TOKEN: service.token };
    const { output } = await run(interpreters[language], [file], { cwd: directory, env });
    assert.equal(output.trim(), expected.trim());
    await service.stop();
  });
}
