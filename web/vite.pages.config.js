import { copyFile, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { brotliCompress } from 'node:zlib';
import { defineConfig } from 'vite';

/** The service that `npm run dev` uses. */
const service = process.env.ORDERS_SERVICE ?? 'http://127.0.0.1:8080';

export default defineConfig({
  root: 'pages',
  base: '/pages/',
  build: {
    outDir: '../dist/pages',
    emptyOutDir: true,
    target: 'es2023',
    // These know `light-dark()`, which Vite can only replace if it sees the colour scheme.
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    // The security policy allows no data: URL in a style sheet.
    assetsInlineLimit: 0,
    rolldownOptions: {
      input: ['pages/admin.html', 'pages/shop.html'],
      // Vite warns that it ignores 'use client', which only matters for React's server components.
      checks: { moduleLevelDirective: false },
      // One file for what both pages need at once: each of many small files would cost a round trip on a phone.
      output: { codeSplitting: { groups: [{ name: 'shared', tags: ['$initial'], minShareCount: 2 }] } },
    },
  },
  server: {
    proxy: {
      '/graphql': { target: service, ws: true },
      '/pages/config.json': service,
    },
  },
  plugins: [
    {
      name: 'the addresses of the pages, as the service has them',
      configureServer: ({ middlewares }) => {
        middlewares.use((request, _, next) => {
          const page = /^\/(admin|shop)(?=[/?]|$)/.exec(request.url)?.[1];
          if (page) request.url = `/pages/${page}.html`;
          next();
        });
      },
    },
    {
      name: 'a compressed copy of each asset, which the service sends to browsers that accept it',
      writeBundle: async ({ dir }, bundle) => {
        const assets = Object.values(bundle).filter(({ fileName }) => /^assets\/.*\.(css|js)$/.test(fileName));
        await Promise.all(assets.map(async ({ fileName, code, source }) =>
          writeFile(`${dir}/${fileName}.br`, await promisify(brotliCompress)(code ?? source))));
      },
    },
    {
      name: 'the documents that the pages send',
      closeBundle: () => copyFile('pages/generated/persisted-documents.json', 'dist/pages/documents.json'),
    },
  ],
});
