//! The cost of an operation and the largest size of its response, by the directives of the schema that
//! [`cost_directives`](crate::graphql::cost_directives) defines. Both are upper bounds: a selection with `@skip` or `@include`
//! counts even if it is not executed.

use apollo_compiler::Schema;
use apollo_compiler::ast::Value;
use apollo_compiler::executable::{ExecutableDocument, Field, Operation, Selection, SelectionSet};
use apollo_compiler::response::JsonMap;
use apollo_compiler::schema::ExtendedType;
use entity::event::MAX_NAME;

use super::sizes::{Sizes, integer, names, weight};

/// Elements of a list whose size nothing states.
const ASSUMED_SIZE: usize = 10;
/// Each of so many bytes of the largest response costs 1.
const BYTES_PER_POINT: usize = 64 * 1024;
/// Points of a report that cost as much as one element of another list: they need no reads of their own.
const POINTS_PER_ELEMENT: usize = 10;
/// The cost of a root field of introspection, for all elements of its lists, whose sizes the schema bounds.
const INTROSPECTION_COST: usize = 20;
/// Average sizes for introspection.
const INTROSPECTION_LIST: usize = 3;
const INTROSPECTION_STRING_BYTES: usize = 40;
/// The argument with which a field waits for the read model.
const WAIT_ARGUMENT: &str = "minVersion";

/// All sizes saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    pub cost: usize,
    /// The largest size of the response as JSON, without errors, and of the variables.
    pub bytes: usize,
    /// Whether a field may wait for the read model.
    pub waits: bool,
    /// Whether the operation has a root field that does not wait.
    pub works: bool,
}

/// The estimate for coerced variables. Without variables, it is the smallest that any variables lead to.
pub fn estimate(
    schema: &Schema,
    document: &ExecutableDocument,
    operation: &Operation,
    variables: Option<&JsonMap>,
) -> Estimate {
    let walk = Walk { schema, document, sizes: Sizes { schema, variables }, introspection: false };
    let estimate = walk.selections(&operation.selection_set, None);
    Estimate { cost: estimate.cost.saturating_add(estimate.bytes / BYTES_PER_POINT), ..estimate }
}

impl Estimate {
    /// Also counts the memory of the variables, which an operation keeps until it ends.
    pub fn with_variables(self, bytes: usize) -> Estimate {
        let cost = self.cost.saturating_add(bytes / BYTES_PER_POINT);
        Estimate { cost, bytes: self.bytes.saturating_add(bytes), ..self }
    }

    fn add(self, other: Estimate) -> Estimate {
        Estimate {
            cost: self.cost.saturating_add(other.cost),
            bytes: self.bytes.saturating_add(other.bytes),
            waits: self.waits || other.waits,
            works: self.works || other.works,
        }
    }
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    schema: &'a Schema,
    document: &'a ExecutableDocument,
    sizes: Sizes<'a>,
    introspection: bool,
}

impl Walk<'_> {
    /// `parent` is the field with these selections.
    fn selections(self, set: &SelectionSet, parent: Option<&Field>) -> Estimate {
        let estimates = set.selections.iter().map(|selection| match selection {
            Selection::Field(field) => self.field(field, parent),
            Selection::InlineFragment(inline) => self.selections(&inline.selection_set, parent),
            Selection::FragmentSpread(spread) => spread
                .fragment_def(self.document)
                .map_or_else(Estimate::default, |fragment| self.selections(&fragment.selection_set, parent)),
        });
        let braces = Estimate { bytes: 2, ..Estimate::default() };
        estimates.fold(braces, Estimate::add)
    }

    fn field(self, field: &Field, parent: Option<&Field>) -> Estimate {
        let walk = Walk { introspection: self.introspection || field.name.starts_with("__"), ..self };
        let inner = walk.selections(&field.selection_set, Some(field));
        let (weighted, elements) = walk.elements(field, parent);
        let directives = &field.definition.directives;
        let arguments = field.arguments.iter().filter_map(|argument| {
            let definition = field.definition.argument_by_name(&argument.name)?;
            let own = definition.directives.get("cost").and_then(|directive| weight(directive)).unwrap_or(0);
            let elements = if definition.ty.is_list() { self.sizes.requested(field, &argument.name) } else { None };
            let own = own.saturating_mul(elements.unwrap_or(1));
            let by_value = definition.directives.get("valueCost");
            let of_value = by_value.map_or(0, |by| self.sizes.weight_of_value(field, &argument.name, by));
            let of_input = self.sizes.weight_of_input(&argument.value, &definition.ty);
            Some(own.saturating_add(of_value).saturating_add(of_input))
        });
        let own = match field.name.as_str() {
            "__schema" | "__type" => INTROSPECTION_COST,
            _ => directives.get("cost").and_then(|directive| weight(directive)).unwrap_or(1),
        };
        let range = directives.get("rangeCost").map_or(0, |directive| self.sizes.weight_of_range(field, directive));
        let element_bytes = if field.selection_set.is_empty() { walk.leaf_bytes(field) } else { inner.bytes };
        // Quotation marks, colon, and the brackets of a list; a comma after each element.
        let name_bytes = field.response_key().len() + 6;
        Estimate {
            cost: inner
                .cost
                .saturating_mul(weighted)
                .saturating_add(arguments.fold(own + range, usize::saturating_add)),
            bytes: (element_bytes.saturating_add(1)).saturating_mul(elements).saturating_add(name_bytes),
            waits: inner.waits || self.waits(field),
            works: parent.is_none() && !self.waits(field),
        }
    }

    /// How many elements of a list count in the cost, and how many the response may have.
    fn elements(self, field: &Field, parent: Option<&Field>) -> (usize, usize) {
        let directives = &field.definition.directives;
        if let Some(points) = parent.and_then(|parent| self.sizes.points(parent, field)) {
            return (points.div_ceil(POINTS_PER_ELEMENT), points);
        }
        let max = directives.get("maxSize").and_then(|directive| integer(directive, "elements"));
        if let Some(directive) = directives.get("listSize") {
            let size = self.sizes.of_list(field, directive);
            return (size, max.unwrap_or(size));
        }
        let of_parent = parent.and_then(|parent| parent.definition.directives.get("listSize"));
        let is_sized =
            of_parent.is_some_and(|directive| names(directive, "sizedFields").any(|name| field.name == name));
        if !field.ty().is_list() || is_sized {
            return (1, 1);
        }
        if self.introspection {
            return (1, if field.name == "types" { self.schema.types.len() } else { INTROSPECTION_LIST });
        }
        (ASSUMED_SIZE, max.unwrap_or(ASSUMED_SIZE))
    }

    /// The largest size of a scalar or enum value.
    fn leaf_bytes(self, field: &Field) -> usize {
        let ty = field.ty().inner_named_type();
        let max = field.definition.directives.get("maxSize").and_then(|directive| integer(directive, "bytes"));
        match ty.as_str() {
            _ if max.is_some() => max.unwrap_or_default(),
            "Boolean" => 5,
            "Int" => 11,
            "Float" | "Decimal" => 24,
            "ID" => 40,
            "Date" | "DateTime" => 32,
            _ if self.introspection => INTROSPECTION_STRING_BYTES,
            _ => match self.schema.types.get(ty) {
                Some(ExtendedType::Enum(values)) => values.values.keys().map(|name| name.len() + 2).max().unwrap_or(2),
                // A character has at most four bytes.
                _ => 4 * MAX_NAME + 2,
            },
        }
    }

    /// Every client has version 0, so a field does not wait for it.
    fn waits(self, field: &Field) -> bool {
        let version = match field.specified_argument_by_name(WAIT_ARGUMENT).map(|value| &**value) {
            Some(Value::Variable(name)) => self.sizes.variable(name).and_then(|value| value.as_i64()),
            Some(value) => value.to_i32().map(Into::into),
            None => None,
        };
        version.is_some_and(|version| version > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apollo_compiler::Schema;

    #[test]
    fn a_cost_counts_lists_by_their_arguments() {
        let schema = r#"
            directive @cost(weight: String!) on ARGUMENT_DEFINITION | FIELD_DEFINITION
            directive @valueCost(divisor: Int!) on ARGUMENT_DEFINITION
            directive @listSize(assumedSize: Int, slicingArguments: [String!], sizedFields: [String!]) on FIELD_DEFINITION
            directive @rangeCost(from: String!, to: String!, daysPerUnit: Int, periodWeight: Int, maxDays: Int) on FIELD_DEFINITION
            type Query {
                page(first: Int = 50): Page! @listSize(slicingArguments: ["first"], sizedFields: ["nodes", "edges"])
                some(ids: [ID!]!): [Thing] @listSize(slicingArguments: ["ids"])
                assumed(first: Int): [Thing] @listSize(slicingArguments: ["first"], assumedSize: 20)
                things: [Thing]
                thing: Thing
                wait(minVersion: Int @cost(weight: "10")): Thing
                at(version: Int @cost(weight: "5") @valueCost(divisor: 4)): Thing
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
            estimate(&schema, &document, operation, Some(&serde_json::from_str(variables).unwrap())).cost
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
        assert_eq!(cost("{ at(version: 43) { id } }", "{}"), 2 + 5 + 10);
        assert_eq!(cost("query ($v: Int) { at(version: $v) { id } }", r#"{"v": 44}"#), 2 + 5 + 11);
        assert_eq!(cost("{ at(version: -7) { id } }", "{}"), 2 + 5);
        assert_eq!(cost("{ at(version: null) { id } }", "{}"), 2 + 5);
        assert_eq!(cost("{ assumed { id } }", "{}"), 1 + 20);
        assert_eq!(cost("{ assumed(first: 3) { id } }", "{}"), 1 + 3);
        assert_eq!(cost("mutation { make { id } again: make { id } }", "{}"), 2 * (9 + 2));
        assert_eq!(cost("{ ...f } fragment f on Query { ... { thing { id } } }", "{}"), 2);
        assert_eq!(cost("{ __schema { types { fields { args { name } } } } }", "{}"), 20 + 4);
        assert_eq!(cost("{ __type(name: \"Thing\") { name } }", "{}"), 20 + 1);
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

    /// The estimate by the schema of the service.
    fn of(document: &str, variables: Option<&str>) -> Estimate {
        let schema = Schema::parse_and_validate(crate::graphql::schema(None).sdl(), "schema").unwrap();
        let document = ExecutableDocument::parse_and_validate(&schema, document, "document")
            .unwrap_or_else(|error| panic!("{document}: {}", error.errors));
        let variables = variables.map(|variables| serde_json::from_str(variables).unwrap());
        estimate(&schema, &document, document.operations.get(None).unwrap(), variables.as_ref())
    }

    #[test]
    fn the_lines_of_an_order_count_in_its_cost() {
        let literal = |items: &str| {
            of(&format!("mutation {{ placeOrder(input: {{ clientId: 1, items: {items} }}) {{ replayed }} }}"), None)
                .cost
        };
        let line = "{ productId: 1, quantity: 1 }";
        assert_eq!(literal("[]"), 21);
        assert_eq!(literal(line), 22);
        assert_eq!(literal(&format!("[{}]", line.repeat(100))), 121);

        let lines = format!("[{}]", [r#"{ "productId": "1", "quantity": 1 }"#; 50].join(","));
        for (variables, document) in [
            (
                format!(r#"{{ "v": {{ "clientId": "1", "items": {lines} }} }}"#),
                "mutation ($v: PlaceOrderInput!) { placeOrder(input: $v) { replayed } }",
            ),
            (
                format!(r#"{{ "v": {lines} }}"#),
                "mutation ($v: [OrderItemInput!]!) { placeOrder(input: { clientId: 1, items: $v }) { replayed } }",
            ),
        ] {
            assert_eq!(of(document, Some(&variables)).cost, 71, "{document}");
            assert_eq!(of(document, None).cost, 21, "at least: {document}");
        }
        let mixed =
            "mutation ($v: OrderItemInput!) { placeOrder(input: { clientId: 1, items: [$v, $v] }) { replayed } }";
        assert_eq!(of(mixed, Some(r#"{ "v": { "productId": "1", "quantity": 1 } }"#)).cost, 23);
    }

    #[test]
    fn the_bytes_of_a_response_count_names_and_the_elements_of_lists() {
        let sales = |range: &str, fields: &str| of(&format!("{{ sales({range}) {{ {fields} }} }}"), None).bytes;
        let year = r#"from: "2025-01-01", to: "2025-12-31""#;
        let alias = "a".repeat(100);
        let long = sales(year, &format!("points {{ {alias}: orderCount }}"));
        assert!((365 * 100..365 * 150).contains(&long), "{long}");
        let month = sales(&format!("{year}, granularity: MONTH"), &format!("points {{ {alias}: orderCount }}"));
        assert!((12 * 100..12 * 150).contains(&month), "{month}");
        let hours = r#"from: "2025-01-01", to: "2025-01-02", granularity: HOUR"#;
        assert!((48 * 100..50 * 150).contains(&sales(hours, &format!("points {{ {alias}: orderCount }}"))));
        let document = "query ($to: Date!, $by: Granularity) {
            sales(from: \"2025-01-01\", to: $to, granularity: $by) { points { orderCount } } }";
        let with = |variables: &str| of(document, Some(variables)).bytes;
        assert_eq!(with(r#"{ "to": "2025-12-31" }"#), with(r#"{ "to": "2025-12-31", "by": "DAY" }"#));
        assert!(with(r#"{ "to": "2025-12-31", "by": "MONTH" }"#) < with(r#"{ "to": "2025-12-31" }"#) / 20);
        assert!(with(r#"{ "to": "9999-12-31" }"#) < 1_100 * 30, "a report has at most 1000 points");
        let unknown = format!(
            "query ($by: Granularity) {{ sales({year}, granularity: $by) {{ points {{ {alias}: orderCount }} }} }}"
        );
        assert_eq!(of(&unknown, None).bytes, month, "the smallest estimate");

        let clients = of("{ clients(first: 100) { nodes { name } } }", None).bytes;
        assert!((100 * 800..100 * 850).contains(&clients), "names have up to 200 characters of 4 bytes: {clients}");
        let waits = |variables| of("query ($v: Int) { client(id: 1, minVersion: $v) { id } }", Some(variables)).waits;
        assert_eq!([waits(r#"{ "v": 1 }"#), waits(r#"{ "v": null }"#), waits("{}")], [true, false, false]);
        assert!(!waits(r#"{ "v": 0 }"#) && !waits(r#"{ "v": -1 }"#));
    }

    #[test]
    fn the_memory_of_variables_counts_as_that_of_a_response() {
        let variables = Estimate { cost: 5, bytes: 100, ..Estimate::default() }.with_variables(2 * BYTES_PER_POINT);
        assert_eq!((variables.cost, variables.bytes), (7, 2 * BYTES_PER_POINT + 100));
        assert_eq!(Estimate::default().with_variables(1_000).cost, 0);
    }

    #[test]
    fn the_bytes_of_a_response_and_the_elements_that_are_read_count_in_the_cost() {
        let orders = |fields: &str| of(&format!("{{ orders(first: 100) {{ {fields} }} }}"), None);
        let small = orders("nodes { id items { quantity } }");
        let large = orders("nodes { id items { quantity name a: name b: name } }");
        // The items cost 1 more, because a further row is read for them.
        assert_eq!(small.cost, 9 + 100 * (1 + 1 + 2 + 4) + small.bytes / (64 * 1024));
        assert_eq!(large.cost, 9 + 100 * (1 + 1 + 2 + 4 * 4) + large.bytes / (64 * 1024));
        assert!(large.bytes > 20_000_000 && large.cost > 2_200, "{large:?}");
        assert!(orders("pageInfo { hasNextPage }").cost > 200, "the orders of the page are read all the same");
    }

    #[test]
    fn fields_that_are_read_from_the_command_database_cost_more() {
        let cost = |document: &str| of(document, None).cost;
        assert_eq!(cost("{ clientByEmail(email: \"bob@example.com\") { id } }"), 8 + 2);
        assert_eq!(cost("{ orders(first: 3) { nodes { id } } }"), 8 + 1 + 3 * 2);
        // They share their statements with others.
        assert_eq!(cost("{ order(id: 1) { id } }"), 4 + 2);
        assert_eq!(cost("{ client(id: 1) { orders(first: 3) { nodes { id } } } }"), 1 + 4 + 1 + 3 * 2);
        assert_eq!(cost("{ client(id: 1) { id } }"), 2, "it is read from Redis");
        assert_eq!(cost("{ clients(first: 3) { nodes { id } } }"), 8 + 1 + 3 * 2, "all partitions are read");
        // It adds up that many orders and refunds.
        assert_eq!(cost("{ client(id: 1, atVersion: 12) { id } }"), 2 + 10 + 1);
        assert_eq!(cost("{ client(id: 1, atVersion: 10000) { id } }"), 2 + 10 + 833);
        let report = |to: &str, fields: &str| {
            cost(&format!("{{ clientReport(from: \"2025-01-01\", to: \"{to}\") {{ {fields} }} }}"))
        };
        let sales = "sales(from: \"2025-01-01\", to: \"2025-07-20\")";
        assert_eq!(cost(&format!("{{ client(id: 1) {{ {sales} {{ orderCount }} }} }}")), 1 + 50 + 2 + 1);
        let points = cost(&format!("{{ client(id: 1) {{ {sales} {{ points {{ start }} }} }} }}"));
        assert_eq!(points, 1 + 50 + 2 + 1 + 21, "201 points cost as much as 21 elements");
        // Products share a read from Redis: 6 months and 20 days.
        assert_eq!(
            cost(&format!("{{ products(first: 2) {{ nodes {{ {sales} {{ units }} }} }} }}")),
            1 + 2 * (1 + 2 + 26 + 1)
        );
        assert_eq!(report("2025-01-01", "clientCount"), 20 + 1);
        assert_eq!(report("2025-12-31", "clientCount"), 20 + 182 + 1);
        assert_eq!(report("2026-01-02", "clientCount"), 20 + 1, "it is rejected");
        assert_eq!(report("2025-01-01", "topClients(first: 5) { client { id } orderCount }"), 20 + 1 + 5 * 3);
    }

    #[test]
    fn entities_of_a_gateway_cost_as_much_as_clients_and_a_statement() {
        let sdl = crate::graphql::subgraph(None).sdl();
        let schema = Schema::parse_and_validate(sdl, "schema").unwrap();
        let of = |document: &str, variables: &str| {
            let document = ExecutableDocument::parse_and_validate(&schema, document, "document").unwrap();
            let variables = serde_json::from_str(variables).unwrap();
            estimate(&schema, &document, document.operations.get(None).unwrap(), Some(&variables))
        };
        let fields = "{ id name recentOrders { id } }";
        let clients =
            of(&format!("query ($of: [ID!]!) {{ clientsByIds(ids: $of) {fields} }}"), r#"{ "of": ["1", "2", "3"] }"#);
        let entities =
            format!("query ($of: [_Any!]!) {{ _entities(representations: $of) {{ ... on Client {fields} }} }}");
        let entities = of(&entities, r#"{ "of": [{ "id": "1" }, { "id": "2" }, { "id": "3" }] }"#);
        let client = of(&format!("{{ client(id: 1) {fields} }}"), "{}");
        assert_eq!(entities.cost, 9 + 3 * client.cost);
        assert!(entities.bytes >= clients.bytes, "{entities:?} {clients:?}");
        let service = of("{ _service { sdl } }", "{}");
        assert!(service.cost >= 20, "a large text is compressed");
        assert!(service.bytes > crate::graphql::federation::subgraph_sdl().len());
    }

    #[test]
    fn only_an_operation_whose_root_fields_all_wait_does_not_work() {
        let wait = "client(id: 1, minVersion: 1) { id }";
        let works = |document: &str| (of(document, None).waits, of(document, None).works);
        assert_eq!(works(&format!("{{ {wait} again: {wait} }}")), (true, false));
        assert_eq!(works("{ client(id: 1, minVersion: 0) { id } }"), (false, true));
        assert_eq!(works("{ client(id: 1, minVersion: -1) { id } }"), (false, true));
        assert_eq!(
            works(&format!("{{ {wait} ...f }} fragment f on Query {{ product(id: 1) {{ id }} }}")),
            (true, true)
        );
        assert_eq!(works(&format!("{{ {wait} __typename }}")), (true, true));
    }
}
