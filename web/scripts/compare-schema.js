// node scripts/compare-schema.js OLD NEW: prints what breaks clients of the schema OLD when NEW takes its place, and
// exits with status 1 if anything does. What OLD had deprecated may go.
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

/** The rule of the library knows fields and enum values only. */
function mayRemoveDeprecatedArguments({ changes, oldSchema }) {
  return changes.filter(({ type, path }) => {
    if (type !== ChangeType.FieldArgumentRemoved) return true;
    const [parent, field, name] = path.split('.');
    const { args } = oldSchema.getType(parent).getFields()[field];
    return args.find((argument) => argument.name === name).deprecationReason == null;
  });
}
