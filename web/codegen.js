// Generates types for the operations of the pages, and the manifest for a service that accepts only trusted documents.
export default {
  schema: '../schema.graphql',
  documents: 'pages/*.ts',
  generates: {
    'pages/generated/': {
      preset: 'client',
      presetConfig: { fragmentMasking: false, persistedDocuments: { hashAlgorithm: 'sha256' } },
      config: {
        documentMode: 'string',
        enumsAsTypes: true,
        strictScalars: true,
        scalars: { Date: 'string', DateTime: 'string', Decimal: 'string' },
        useTypeImports: true,
      },
    },
  },
};
