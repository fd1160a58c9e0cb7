// The operations of the pages: their types, and the manifest of documents that a service may be told to trust.
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
