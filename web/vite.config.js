import { defineConfig } from 'vite';

export default defineConfig({
  root: 'graphiql',
  base: '/graphiql/',
  build: {
    outDir: '../dist/graphiql',
    emptyOutDir: true,
    // The code editor alone is larger than the 500 kB that Vite warns of.
    chunkSizeWarningLimit: 2000,
    // React's server components are told apart by 'use client', which means nothing in a page without them.
    rolldownOptions: { checks: { moduleLevelDirective: false } },
  },
});
