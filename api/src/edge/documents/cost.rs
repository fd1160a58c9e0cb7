//! The cost of an operation, by the directives of the schema that [`cost_directives`](crate::graphql::cost_directives) defines.

use apollo_compiler::Node;
use apollo_compiler::ast::{Directive, Value};
use apollo_compiler::executable::{ExecutableDocument, Field, Operation, Selection, SelectionSet};
use apollo_compiler::response::{JsonMap, JsonValue};
use chrono::{Datelike, Months, NaiveDate};

/// Elements of a list whose size nothing states.
const ASSUMED_SIZE: usize = 10;

/// Saturates. `variables` are coerced.
pub fn cost(document: &ExecutableDocument, operation: &Operation, variables: &JsonMap) -> usize {
    Cost { document, variables, assumed_size: ASSUMED_SIZE }.of_selections(&operation.selection_set, None)
}

#[derive(Clone, Copy)]
struct Cost<'a> {
    document: &'a ExecutableDocument,
    variables: &'a JsonMap,
    assumed_size: usize,
}

impl Cost<'_> {
    /// `around` is the `@listSize` of the field with these selections.
    fn of_selections(self, set: &SelectionSet, around: Option<&Directive>) -> usize {
        let costs = set.selections.iter().map(|selection| match selection {
            Selection::Field(field) => self.of_field(field, around),
            Selection::InlineFragment(inline) => self.of_selections(&inline.selection_set, around),
            Selection::FragmentSpread(spread) => spread
                .fragment_def(self.document)
                .map_or(0, |fragment| self.of_selections(&fragment.selection_set, around)),
        });
        costs.fold(0, usize::saturating_add)
    }

    fn of_field(self, field: &Field, around: Option<&Directive>) -> usize {
        let directives = &field.definition.directives;
        let list_size = directives.get("listSize").map(|directive| &**directive);
        let is_sized = around.is_some_and(|directive| names(directive, "sizedFields").any(|name| field.name == name));
        // The length of introspection's lists is bounded by the schema.
        let assumed_size = if field.name.starts_with("__") { 1 } else { self.assumed_size };
        let size = match list_size {
            Some(directive) => self.size(field, directive),
            None if field.ty().is_list() && !is_sized => assumed_size,
            None => 1,
        };
        let inner = Cost { assumed_size, ..self }.of_selections(&field.selection_set, list_size);
        let arguments = field.arguments.iter().filter_map(|argument| {
            let definition = field.definition.argument_by_name(&argument.name)?;
            weight(definition.directives.get("cost")?)
        });
        let own = directives.get("cost").and_then(weight).unwrap_or(1);
        let range = directives.get("rangeCost").and_then(|directive| self.of_range(field, directive)).unwrap_or(0);
        inner.saturating_mul(size).saturating_add(own + arguments.sum::<usize>()).saturating_add(range)
    }

    fn size(self, field: &Field, directive: &Directive) -> usize {
        let sizes = names(directive, "slicingArguments").filter_map(|name| self.requested(field, name));
        // The resolver rejects a negative size.
        sizes.max().or(integer(directive, "assumedSize")).unwrap_or(1).max(1)
    }

    /// Number of elements that an argument asks for: its value, or its length if it is a list.
    fn requested(self, field: &Field, argument: &str) -> Option<usize> {
        let definition = field.definition.argument_by_name(argument)?;
        // A single value may stand for a list of one.
        let is_list = definition.ty.is_list();
        let size = |value: &Node<Value>| match &**value {
            Value::List(list) => Some(list.len()),
            Value::Int(number) if !is_list => number.as_str().parse().ok(),
            Value::Variable(name) => match self.variables.get(name.as_str())? {
                JsonValue::Array(list) => Some(list.len()),
                number if !is_list => number.as_u64()?.try_into().ok(),
                _ => None,
            },
            _ => None,
        };
        field.specified_argument_by_name(argument).and_then(size).or(definition.default_value.as_ref().and_then(size))
    }

    fn of_range(self, field: &Field, directive: &Directive) -> Option<usize> {
        let day = |end| {
            let argument = directive.specified_argument_by_name(end)?.as_str()?;
            let text = match &**field.specified_argument_by_name(argument)? {
                Value::Variable(name) => self.variables.get(name.as_str())?.as_str()?,
                value => value.as_str()?,
            };
            text.parse::<NaiveDate>().ok()
        };
        let (from, to) = (day("from")?, day("to")?);
        let days = usize::try_from((to - from).num_days()).ok()?;
        if integer(directive, "maxDays").is_some_and(|max| days > max) {
            return None;
        }
        let by_days = integer(directive, "daysPerUnit").and_then(|per_unit| days.checked_div(per_unit)).unwrap_or(0);
        let by_periods = integer(directive, "periodWeight").map_or(0, |weight| weight * periods(from, to));
        Some(by_days + by_periods)
    }
}

/// Whole calendar months, and days outside of these, from the first day to the last, both included.
fn periods(from: NaiveDate, to: NaiveDate) -> usize {
    let next = |first: &NaiveDate| {
        let next_month = first.checked_add_months(Months::new(1)).filter(|_| first.day() == 1);
        next_month.filter(|next| next.pred_opt().is_some_and(|last| last <= to)).or(first.succ_opt())
    };
    std::iter::successors(Some(from), next).take_while(|first| *first <= to).count()
}

fn weight(directive: &Node<Directive>) -> Option<usize> {
    directive.specified_argument_by_name("weight")?.as_str()?.parse().ok()
}

fn integer(directive: &Directive, argument: &str) -> Option<usize> {
    directive.specified_argument_by_name(argument)?.to_i32()?.try_into().ok()
}

fn names<'a>(directive: &'a Directive, argument: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let names = directive.specified_argument_by_name(argument).and_then(|names| names.as_list());
    names.unwrap_or_default().iter().filter_map(|name| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use apollo_compiler::Schema;

    #[test]
    fn a_cost_counts_lists_by_their_arguments() {
        let schema = r#"
            directive @cost(weight: String!) on ARGUMENT_DEFINITION | FIELD_DEFINITION
            directive @listSize(assumedSize: Int, slicingArguments: [String!], sizedFields: [String!]) on FIELD_DEFINITION
            directive @rangeCost(from: String!, to: String!, daysPerUnit: Int, periodWeight: Int, maxDays: Int) on FIELD_DEFINITION
            type Query {
                page(first: Int = 50): Page! @listSize(slicingArguments: ["first"], sizedFields: ["nodes", "edges"])
                some(ids: [ID!]!): [Thing] @listSize(slicingArguments: ["ids"])
                assumed(first: Int): [Thing] @listSize(slicingArguments: ["first"], assumedSize: 20)
                things: [Thing]
                thing: Thing
                wait(minVersion: Int @cost(weight: "10")): Thing
                sales(from: Day, to: Day): Thing @rangeCost(from: "from", to: "to", daysPerUnit: 100)
                topProducts(since: Day, until: Day): Thing
                    @rangeCost(from: "since", to: "until", periodWeight: 4, maxDays: 3660)
            }
            type Mutation { make: Thing @cost(weight: "10") }
            type Page { nodes: [Thing] edges: [Thing] }
            type Thing { id: ID! parts: [Thing] }
            scalar Day"#;
        let schema = Schema::parse_and_validate(schema, "schema").unwrap();
        let cost = |document: &str, variables: &str| {
            let document = ExecutableDocument::parse_and_validate(&schema, document, "document").unwrap();
            let operation = document.operations.get(None).unwrap();
            super::cost(&document, operation, &serde_json::from_str(variables).unwrap())
        };
        assert_eq!(cost("{ thing { id } }", "{}"), 2);
        assert_eq!(cost("{ things { id } }", "{}"), 1 + 10);
        assert_eq!(cost("{ things { parts { id } } }", "{}"), 1 + 10 * (1 + 10));
        assert_eq!(cost("{ page { nodes { id } } }", "{}"), 1 + 50 * 2);
        assert_eq!(cost("{ page(first: 3) { nodes { id } edges { id } } }", "{}"), 1 + 3 * 4);
        assert_eq!(cost("{ page(first: null) { nodes { id } } }", "{}"), 1 + 50 * 2);
        assert_eq!(cost("{ page(first: -7) { nodes { id } } }", "{}"), 1 + 50 * 2);
        assert_eq!(cost("query ($n: Int) { page(first: $n) { nodes { id } } }", r#"{"n": 7}"#), 1 + 7 * 2);
        assert_eq!(cost("query ($n: Int) { page(first: $n) { nodes { id } } }", "{}"), 1 + 50 * 2);
        assert_eq!(cost("{ some(ids: [1, 2]) { id parts { id } } }", "{}"), 1 + 2 * (1 + 11));
        assert_eq!(cost("query ($i: [ID!]!) { some(ids: $i) { id } }", r#"{"i": ["1", "2", "3"]}"#), 1 + 3);
        assert_eq!(cost("{ some(ids: 4711) { id } }", "{}"), 1 + 1);
        assert_eq!(cost("query ($i: [ID!]!) { some(ids: $i) { id } }", r#"{"i": 4711}"#), 1 + 1);
        assert_eq!(cost("{ wait(minVersion: 1) { id } }", "{}"), 2 + 10);
        assert_eq!(cost("{ assumed { id } }", "{}"), 1 + 20);
        assert_eq!(cost("{ assumed(first: 3) { id } }", "{}"), 1 + 3);
        assert_eq!(cost("mutation { make { id } again: make { id } }", "{}"), 2 * (9 + 2));
        assert_eq!(cost("{ ...f } fragment f on Query { ... { thing { id } } }", "{}"), 2);
        assert_eq!(cost("{ __schema { types { fields { args { name } } } } }", "{}"), 5);
        let deep = format!("{{ things {{ {} id {} }} }}", "parts { ".repeat(25), "}".repeat(25));
        assert_eq!(cost(&deep, "{}"), usize::MAX);

        let range = |field: &str, [first, last]: [&str; 2], from: &str, to: &str| {
            let days = format!(r#"{{"from": "{from}", "to": "{to}"}}"#);
            let document = format!("query ($from: Day, $to: Day) {{ {field}({first}: $from, {last}: $to) {{ id }} }}");
            let literal = format!(r#"{{ {field}({first}: "{from}", {last}: "{to}") {{ id }} }}"#);
            assert_eq!(cost(&document, &days), cost(&literal, "{}"));
            cost(&literal, "{}") - 2
        };
        let sales = |from, to| range("sales", ["from", "to"], from, to);
        let top_products = |from, to| range("topProducts", ["since", "until"], from, to);
        assert_eq!(sales("2024-01-01", "2024-12-31"), 3);
        assert_eq!(sales("1940-01-01", "2023-04-30"), 304);
        assert_eq!(top_products("2024-01-01", "2024-12-31"), 12 * 4);
        assert_eq!(top_products("2024-01-31", "2024-03-02"), 4 * 4);
        assert_eq!(top_products("0001-01-01", "9999-12-31"), 0, "it is rejected");
        assert_eq!(sales("2024-12-31", "2024-01-01"), 0);
        assert_eq!(sales("any", "day"), 0);
    }
}
