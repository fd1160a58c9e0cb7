// Generates typed documents for the operations of the pages, and the manifest for a service that accepts only trusted documents.
import { addTypenameSelectionDocumentTransform } from '@graphql-codegen/client-preset';

export default {
  schema: '../schema.graphql',
  documents: 'pages/**/*.graphql',
  generates: {
    'pages/generated/': {
      preset: 'client',
      presetConfig: { fragmentMasking: false, persistedDocuments: { hashAlgorithm: 'sha256' } },
      // The cache of the pages needs the type of each object, so the documents of the manifest have it.
      documentTransforms: [addTypenameSelectionDocumentTransform],
      config: {
        enumsAsTypes: true,
        strictScalars: true,
        scalars: { Date: 'string', DateTime: 'string', Decimal: 'string' },
        useTypeImports: true,
      },
    },
  },
};
