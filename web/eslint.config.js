// Rules for the schema: all rules of the plugin, with the exceptions below.
import graphql from '@graphql-eslint/eslint-plugin';

const { 'flat/schema-all': all, 'flat/schema-relay': relay } = graphql.configs;

const rules = {
  ...all.rules,
  ...relay.rules,

  // Everything needs a description, except for arguments of directives: their specification describes them.
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
  // The input type of a mutation is named after it.
  '@graphql-eslint/input-name': ['error', { checkInputType: true, caseSensitiveInputType: false }],
  // Amounts, order items, entries of a history, pages, reports and payloads are values: they have no id. Nor have the parts of the
  // service's state, the types from DeadLetters to System.
  '@graphql-eslint/strict-id-in-types': [
    'error',
    {
      exceptions: {
        types: [
          'FieldChange', 'HistoryEntry', 'Money', 'OrderItem', 'PageInfo',
          'DeadLetters', 'Outbox', 'PreviousGeneration', 'Projection', 'Projector', 'Queue', 'ReadModel', 'Rebuild', 'Store', 'Sweep', 'System',
        ],
        suffixes: ['Connection', 'Edge', 'Error', 'Payload', 'Point', 'Report', 'Sales', 'Snapshot'],
      },
    },
  ],
  // Short lists are plain lists without edges. No object is found by a global id, so there is no `Node`.
  '@graphql-eslint/relay-edge-types': ['error', { shouldImplementNode: false, listTypeCanWrapOnlyEdgeType: false }],
  // Pages are read forwards only.
  '@graphql-eslint/relay-arguments': ['error', { includeBoth: false }],

  // Fields are sorted by meaning, not by name.
  '@graphql-eslint/alphabetize': 'off',
  // The schema has mutations and subscriptions, too.
  '@graphql-eslint/no-root-type': 'off',
  // The specification has no argument for a date in @deprecated, so the reason contains the date.
  '@graphql-eslint/require-deprecation-date': 'off',
  // Queries lag behind mutations, so a query in the payload of a mutation would return old data.
  '@graphql-eslint/require-field-of-type-query-in-mutation-result': 'off',
  // A failure is always reported in `errors`. A non-null type saves clients an additional check for null.
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
