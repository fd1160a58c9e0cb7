import { defineConfig } from 'vite';

export default defineConfig({
  root: 'graphiql',
  base: '/graphiql/',
  build: {
    outDir: '../dist/graphiql',
    emptyOutDir: true,
    // The code editor alone is larger than the 500 kB that Vite warns of.
    chunkSizeWarningLimit: 2000,
    // Vite warns that it ignores 'use client'. The directive only matters for React's server components, which are not used.
    rolldownOptions: { checks: { moduleLevelDirective: false } },
  },
});
