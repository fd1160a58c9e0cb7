// compare-events.js OLD NEW: compares two AsyncAPI documents of the events. Types and optional fields may be added. It prints every other
// difference, because a reader of OLD may not understand NEW, or NEW not the events that OLD has written, and fails.
import { readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';

const [old, current] = process.argv.slice(2).map((file) => JSON.parse(readFileSync(file, 'utf8')).components.messages);
const differences = Object.entries(old).flatMap(([type, { payload }]) =>
  type in current ? compare(payload, current[type].payload, type) : [`${type} was removed`],
);
differences.forEach((difference) => console.log(difference));
process.exitCode = differences.length > 0 ? 1 : 0;

function compare(before, after, path) {
  const { properties: oldFields = {}, items: oldItems, ...oldRules } = withoutComments(before);
  const { properties: fields = {}, items, ...rules } = withoutComments(after);
  const inside = Object.entries(oldFields).flatMap(([name, schema]) =>
    name in fields ? compare(schema, fields[name], `${path}.${name}`) : [`${path}.${name} was removed`],
  );
  const changed = Object.keys({ ...oldRules, ...rules }).filter((rule) => !isDeepStrictEqual(oldRules[rule], rules[rule]));
  const ofItems = oldItems || items ? compare(oldItems ?? {}, items ?? {}, `${path}[]`) : [];
  const text = (value) => JSON.stringify(value) ?? 'nothing';
  return [
    ...inside,
    ...ofItems,
    ...changed.map((rule) => `${path}: ${rule} changed from ${text(oldRules[rule])} to ${text(rules[rule])}`),
  ];
}

function withoutComments({ title, description, examples, default: _, required, ...rules }) {
  return { ...rules, required: required && [...required].sort() };
}
