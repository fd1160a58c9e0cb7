import { copyFile } from 'node:fs/promises';
import { defineConfig } from 'vite';

export default defineConfig({
  root: 'pages',
  base: '/pages/',
  build: {
    outDir: '../dist/pages',
    emptyOutDir: true,
    // Pages wait for a token before all else.
    target: 'es2023',
    rolldownOptions: { input: ['pages/dashboard.html', 'pages/shop.html'] },
  },
  plugins: [
    {
      name: 'the documents that the pages send',
      closeBundle: () => copyFile('pages/generated/persisted-documents.json', 'dist/pages/documents.json'),
    },
  ],
});
