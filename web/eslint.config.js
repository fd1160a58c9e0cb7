// What the schema is held to: every rule of the plugin, except for what is said here.
import graphql from '@graphql-eslint/eslint-plugin';

const { 'flat/schema-all': all, 'flat/schema-relay': relay } = graphql.configs;

const rules = {
  ...all.rules,
  ...relay.rules,

  // Everything is described. The arguments of directives are those of the specification, which describes them.
  '@graphql-eslint/require-description': [
    'error',
    {
      types: true,
      DirectiveDefinition: true,
      FieldDefinition: true,
      EnumValueDefinition: true,
      InputValueDefinition: true,
      ignoredSelectors: ['DirectiveDefinition > .arguments'],
    },
  ],
  // The input type of a mutation bears its name.
  '@graphql-eslint/input-name': ['error', { checkInputType: true, caseSensitiveInputType: false }],
  // An amount, a line, a page, a report and an answer are what they consist of: nobody asks for them by an id.
  '@graphql-eslint/strict-id-in-types': [
    'error',
    {
      exceptions: {
        types: ['Money', 'OrderItem', 'PageInfo'],
        suffixes: ['Connection', 'Edge', 'Error', 'Payload', 'Point', 'Report', 'Sales', 'Snapshot'],
      },
    },
  ],
  // Lists that fit into an answer are lists. No object is found by a global id, so there is no `Node`.
  '@graphql-eslint/relay-edge-types': ['error', { shouldImplementNode: false, listTypeCanWrapOnlyEdgeType: false }],
  // Pages are read forwards only.
  '@graphql-eslint/relay-arguments': ['error', { includeBoth: false }],

  // Fields stand in the order of their meaning.
  '@graphql-eslint/alphabetize': 'off',
  // There is more than queries.
  '@graphql-eslint/no-root-type': 'off',
  // The date would be an argument of @deprecated that the specification does not have: reasons tell it.
  '@graphql-eslint/require-deprecation-date': 'off',
  // Queries follow orders with a delay: within a mutation's answer they would tell what was before.
  '@graphql-eslint/require-field-of-type-query-in-mutation-result': 'off',
  // What cannot be answered is an error, and clients need no further check for a null that only comes with one.
  '@graphql-eslint/require-nullable-result-in-root': 'off',
};

export default [
  {
    files: ['**/*.graphql'],
    plugins: { '@graphql-eslint': graphql },
    languageOptions: { parser: graphql.parser, parserOptions: { graphQLConfig: { schema: 'schema.graphql' } } },
    processor: {
      preprocess: (text) => [text],
      // The server prints every directive of the specification, also those that nothing uses.
      postprocess: ([messages]) => messages.filter(({ message }) => !message.startsWith('Directive `specifiedBy`')),
    },
    rules,
  },
];
