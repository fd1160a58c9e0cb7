// node scripts/compare-schema.js OLD NEW: prints changes from the schema OLD to the schema NEW that break clients, and exits
// with status 1 if there are any. NEW may remove anything that is deprecated in OLD.
import { readFileSync } from 'node:fs';
import { ChangeType, CriticalityLevel, diff, DiffRule } from '@graphql-inspector/core';
import { buildSchema } from 'graphql';

const files = process.argv.slice(2);
if (files.length !== 2) {
  console.error('usage: node scripts/compare-schema.js OLD NEW');
  process.exit(2);
}
const [before, after] = files.map((file) => buildSchema(readFileSync(file, 'utf8')));
const changes = await diff(before, after, [DiffRule.suppressRemovalOfDeprecatedField, mayRemoveDeprecatedArguments]);
const breaking = changes.filter(({ criticality }) => criticality.level === CriticalityLevel.Breaking);
for (const { message } of breaking) console.log(message);
process.exitCode = breaking.length ? 1 : 0;

/** The library's rule covers only fields and enum values, so this one covers arguments. */
function mayRemoveDeprecatedArguments({ changes, oldSchema }) {
  return changes.filter(({ type, path }) => {
    if (type !== ChangeType.FieldArgumentRemoved) return true;
    const [parent, field, name] = path.split('.');
    const { args } = oldSchema.getType(parent).getFields()[field];
    return args.find((argument) => argument.name === name).deprecationReason == null;
  });
}
