use std::sync::LazyLock;

use apollo_compiler::validation::Valid;
use apollo_compiler::{ExecutableDocument, Schema};
use async_graphql::parser::parse_query;
use async_graphql::parser::types::{self, DocumentOperations, Selection};
use async_graphql::{Name, Positioned};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::generator::{Generated, generate};
use super::{convert, convert_value};
use crate::edge::documents::syntax::remove_unsupported;

#[path = "generator.rs"]
mod generator;

static SCHEMA: LazyLock<Valid<Schema>> =
    LazyLock::new(|| Schema::parse_and_validate(crate::graphql::schema(None).sdl(), "schema").unwrap());

fn validate(text: &str) -> Valid<ExecutableDocument> {
    ExecutableDocument::parse_and_validate(&SCHEMA, remove_unsupported(text), "document")
        .unwrap_or_else(|error| panic!("{text}: {}", error.errors))
}

fn converted(text: &str) -> types::ExecutableDocument {
    convert(&validate(text), &SCHEMA, text)
}

fn operation(document: &types::ExecutableDocument) -> &types::OperationDefinition {
    match &document.operations {
        DocumentOperations::Single(operation) => &operation.node,
        DocumentOperations::Multiple(operations) => &operations.values().next().unwrap().node,
    }
}

/// The fields in the order of execution, as the generator reports them.
fn fields(document: &types::ExecutableDocument, set: &types::SelectionSet, fields_of: &mut Vec<Value>) {
    for selection in &set.items {
        match &selection.node {
            Selection::Field(Positioned { node: field, .. }) => {
                let arguments =
                    field.arguments.iter().map(|(name, value)| (name.node.to_string(), json_value(&value.node)));
                fields_of.push(json!([field.response_key().node, arguments.collect::<serde_json::Map<_, _>>()]));
                directives(&field.response_key().node, &field.directives, fields_of);
                fields(document, &field.selection_set.node, fields_of);
            }
            Selection::InlineFragment(inline) => {
                directives("...", &inline.node.directives, fields_of);
                fields(document, &inline.node.selection_set.node, fields_of);
            }
            Selection::FragmentSpread(spread) => {
                let fragment = &document.fragments[&spread.node.fragment_name.node];
                fields(document, &fragment.node.selection_set.node, fields_of);
            }
        }
    }
}

fn directives(of: &str, directives: &[Positioned<types::Directive>], fields_of: &mut Vec<Value>) {
    let directive = |directive: &Positioned<types::Directive>| {
        json!([of, directive.node.name.node, json_value(&directive.node.arguments[0].1.node)])
    };
    fields_of.extend(directives.iter().map(directive));
}

fn json_value(value: &async_graphql_value::Value) -> Value {
    let value = value.clone().into_const_with(|name| {
        let variable = [(Name::new("variable"), async_graphql::Value::from(name.as_str()))];
        Ok::<_, ()>(async_graphql::Value::Object(variable.into_iter().collect()))
    });
    value.unwrap().into_json().unwrap()
}

/// Without what differs between the parsers: whether an ID is a number, and where brackets and `on` are.
fn comparable(value: Value) -> Value {
    match value {
        Value::Number(number) => number.to_string().into(),
        Value::Array(items) => items.into_iter().map(comparable).collect(),
        Value::Object(fields) => {
            let field = |(name, mut value): (String, Value)| {
                if matches!(name.as_str(), "selection_set" | "type_condition") && value.is_object() {
                    value["pos"] = Value::Null;
                }
                (name, comparable(value))
            };
            fields.into_iter().map(field).collect()
        }
        value => value,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_converted_document_has_the_fields_and_values_of_its_text(choices in prop::collection::vec(any::<u8>(), 0..600)) {
        let Generated { text, is_plain, fields: expected, variables } = generate(&SCHEMA, choices);
        let validated = validate(&text);
        let document = convert(&validated, &SCHEMA, &text);
        let operation = operation(&document);

        let mut found = Vec::new();
        fields(&document, &operation.selection_set.node, &mut found);
        prop_assert_eq!(&found, &expected, "{}", text);
        let keys = found.iter().filter(|field| field[1].is_object()).map(|field| field[0].as_str().unwrap());
        let validated = validated.operations.get(None).unwrap().all_fields(&validated).map(|field| field.response_key().as_str());
        let (mut keys, mut validated): (Vec<_>, Vec<_>) = (keys.collect(), validated.collect());
        keys.sort_unstable();
        validated.sort_unstable();
        prop_assert_eq!(keys, validated);

        let found: Vec<_> = operation.variable_definitions.iter().map(|variable| {
            let variable = &variable.node;
            json!([variable.name.node, variable.var_type.node.to_string(), variable.default_value.as_ref().map(|value| &value.node)])
        }).collect();
        prop_assert_eq!(found, variables);

        if is_plain {
            let parsed = parse_query(&text).unwrap();
            let [document, parsed] = [document, parsed].map(|document| comparable(serde_json::to_value(document).unwrap()));
            prop_assert_eq!(document, parsed, "{}", text);
        }
    }
}

#[test]
fn positions_are_those_of_the_text() {
    let text = "query Q(\n  $first: Int! = 3,\n  $after: String\n) {\n  # é\n  \u{1F600}list: products(first: $first after: $after) @skip(if: false) {\n    ...f\n    ... on ProductConnection { nodes { id } }\n  }\n}\n\nfragment f on ProductConnection {\n  edges { cursor }\n}".replace("\u{1F600}", "");
    let document = comparable(serde_json::to_value(converted(&text)).unwrap());
    assert_eq!(document, comparable(serde_json::to_value(parse_query(&text).unwrap()).unwrap()));
}

#[test]
fn the_root_of_a_subscription_is_its_field() {
    for text in [
        "subscription { ...f } fragment f on Subscription { ... { a: clientChanged(id: 1) { id ...g } } } fragment g on Client { name }",
        "fragment g on Client { name } subscription S { ... on Subscription { a: clientChanged(id: 1) { id ...g } } }",
    ] {
        let document = converted(text);
        let root = &operation(&document).selection_set.node.items;
        assert!(matches!(&root[..], [Positioned { node: Selection::Field(_), .. }]), "{root:?}");
        let mut found = Vec::new();
        fields(&document, &operation(&document).selection_set.node, &mut found);
        assert_eq!(found, [json!(["a", { "id": "1" }]), json!(["id", {}]), json!(["name", {}])]);
    }
}

#[test]
fn numbers_keep_their_value() {
    let value = |text: &str, ty: &str| {
        let document = format!("query ($v: {ty} = {text}) {{ client(id: 1) {{ id }} }}");
        let parsed = apollo_compiler::ast::Document::parse(document, "document").unwrap();
        let operation = parsed.definitions[0].as_operation_definition().unwrap();
        let (ty, default) = (&operation.variables[0].ty, operation.variables[0].default_value.clone().unwrap());
        json_value(&convert_value(&SCHEMA, &default, ty.inner_named_type()))
    };
    assert_eq!(value("-0", "Int"), json!(0));
    assert_eq!(value("-2147483648", "Int"), json!(-2_147_483_648_i64));
    assert_eq!(value("9223372036854775807", "Decimal"), json!(i64::MAX));
    assert_eq!(value("1.50e-1", "Decimal"), json!(0.15));
    assert_eq!(value("1e999", "Decimal"), json!("1e999"));
    assert_eq!(value("[1, [99999999999999999999]]", "ID"), json!(["1", ["99999999999999999999"]]));
}
