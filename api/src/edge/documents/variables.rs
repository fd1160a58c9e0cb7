//! Variables of a request, as async-graphql executes them.

use apollo_compiler::Schema;
use apollo_compiler::executable::{ExecutableDocument, Operation};
use apollo_compiler::request::coerce_variable_values;
use apollo_compiler::response::{JsonMap, JsonValue};
use apollo_compiler::validation::Valid;
use async_graphql::parser::types::{ExecutableDocument as Converted, Selection, SelectionSet};
use async_graphql::{Name, SerializerError, Variables};
use async_graphql_value::{ConstValue, Value};

use super::convert::convert_value;
use super::values::{InvalidValue, check_nulls, check_variable};
use crate::graphql::federation::KEY;

/// Coerced variables: as JSON, and as async-graphql executes them.
pub struct Coerced {
    pub json: Valid<JsonMap>,
    pub variables: Variables,
}

/// Coerces the variables of a request, and checks everything that execution would refuse.
pub fn coerce(
    schema: &Valid<Schema>,
    document: &ExecutableDocument,
    operation: &Operation,
    mut given: JsonMap,
) -> Result<Coerced, InvalidValue> {
    for variable in operation.variables.iter().filter(|variable| variable.ty.inner_named_type().as_str() == "_Any") {
        match given.get_mut(variable.name.as_str()) {
            Some(JsonValue::Array(items)) if variable.ty.is_list() => items.iter_mut().for_each(keep_key),
            Some(representation) => keep_key(representation),
            None => {}
        }
    }
    given.iter_mut().for_each(|(_, value)| write_whole_numbers_as_integers(value));
    let json = coerce_variable_values(schema, operation, &given)
        .map_err(|error| InvalidValue { message: format!("{}.", error.message()), location: error.location() })?;
    check_nulls(schema, document, operation, &json)?;
    let variables = convert(schema, operation, &given, &json)
        .map_err(|error| InvalidValue { message: error.to_string(), location: None })?;
    for variable in &operation.variables {
        let Some(value) = variables.get(variable.name.as_str()) else { continue };
        check_variable(schema, value, &variable.ty).map_err(|error| InvalidValue {
            message: format!("${}: {error}", variable.name),
            location: variable.location(),
        })?;
    }
    Ok(Coerced { json, variables })
}

/// Removes all but the key of an entity of a gateway. The rest may be any JSON, which is not read but would be converted and kept.
fn keep_key(representation: &mut JsonValue) {
    match representation {
        JsonValue::Object(fields) => fields.retain(|name, value| {
            KEY.contains(&name.as_str()) && !matches!(value, JsonValue::Array(_) | JsonValue::Object(_))
        }),
        JsonValue::Array(_) => *representation = JsonValue::Object(JsonMap::new()), // it has no key
        _ => {}
    }
}

/// The number of values in variables, also inside of lists and objects.
pub fn count(values: &JsonMap) -> usize {
    values.values().map(count_in).sum()
}

fn count_in(value: &JsonValue) -> usize {
    1 + match value {
        JsonValue::Array(items) => items.iter().map(count_in).sum(),
        JsonValue::Object(fields) => count(fields),
        _ => 0,
    }
}

/// The memory of variables in bytes. An operation keeps them until it ends: each value has a fixed size, and texts are on the heap.
pub fn size(variables: &Variables) -> usize {
    variables.iter().map(|(name, value)| name.len() + size_of_value(value)).sum()
}

fn size_of_value(value: &ConstValue) -> usize {
    let inner = match value {
        ConstValue::String(text) => text.len(),
        ConstValue::Enum(name) => name.len(),
        ConstValue::List(items) => items.iter().map(size_of_value).sum(),
        ConstValue::Object(fields) => fields.iter().map(|(name, value)| name.len() + size_of_value(value)).sum(),
        _ => 0,
    };
    size_of::<ConstValue>() + inner
}

/// JSON has one type of numbers: `1.0`, `1e0` and `1` are the same integer, and so are `-0` and `0`.
/// <https://spec.graphql.org/September2025/#sec-Int.Input-Coercion>
fn write_whole_numbers_as_integers(value: &mut JsonValue) {
    match value {
        JsonValue::Number(number) => {
            let whole = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15);
            if let Some(whole) = whole {
                *value = (whole as i64).into();
            }
        }
        JsonValue::Array(items) => items.iter_mut().for_each(write_whole_numbers_as_integers),
        JsonValue::Object(fields) => fields.iter_mut().for_each(|(_, value)| write_whole_numbers_as_integers(value)),
        JsonValue::Null | JsonValue::Bool(_) | JsonValue::String(_) => {}
    }
}

/// Default values come from the document: as JSON, a large ID would lose digits and `-0` would be no integer.
fn convert(
    schema: &Schema,
    operation: &Operation,
    given: &JsonMap,
    coerced: &JsonMap,
) -> Result<Variables, SerializerError> {
    let mut variables = Variables::from_value(async_graphql::to_value(coerced)?);
    for variable in operation.variables.iter().filter(|variable| !given.contains_key(variable.name.as_str())) {
        let default = variable
            .default_value
            .as_ref()
            .map(|default| convert_value(schema, default, variable.ty.inner_named_type()));
        if let Some(default) = default.and_then(Value::into_const) {
            variables.insert(Name::new(&variable.name), default);
        }
    }
    Ok(variables)
}

/// Removes arguments and input fields whose variable has no value, so that their defaults apply. async-graphql would take null.
pub fn omit_absent(document: &mut Converted, variables: &Variables) {
    use async_graphql::parser::types::DocumentOperations::{Multiple, Single};
    match &mut document.operations {
        Single(operation) => omit_in_selections(&mut operation.node.selection_set.node, variables),
        Multiple(operations) => {
            operations
                .values_mut()
                .for_each(|operation| omit_in_selections(&mut operation.node.selection_set.node, variables));
        }
    }
    document
        .fragments
        .values_mut()
        .for_each(|fragment| omit_in_selections(&mut fragment.node.selection_set.node, variables));
}

fn omit_in_selections(set: &mut SelectionSet, variables: &Variables) {
    for selection in &mut set.items {
        match &mut selection.node {
            Selection::Field(field) => {
                field.node.arguments.retain_mut(|(_, value)| has_value(&mut value.node, variables));
                omit_in_selections(&mut field.node.selection_set.node, variables);
            }
            Selection::InlineFragment(inline) => omit_in_selections(&mut inline.node.selection_set.node, variables),
            Selection::FragmentSpread(_) => {}
        }
    }
}

/// Whether this is not a variable without a value. Removes fields of input objects that are.
fn has_value(value: &mut Value, variables: &Variables) -> bool {
    match value {
        Value::Variable(name) => return variables.contains_key(name),
        Value::List(items) => items.iter_mut().for_each(|item| {
            has_value(item, variables);
        }),
        Value::Object(fields) => fields.retain(|_, value| has_value(value, variables)),
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_variables_counts_values_and_texts() {
        let size = |json: serde_json::Value| size(&Variables::from_json(json));
        assert!((60_000..60_100).contains(&size(serde_json::json!({ "a": "x".repeat(60_000) }))));
        let many = serde_json::json!({ "a": vec![serde_json::json!({ "b": null }); 1_000] });
        assert!((2_000 * 64..2_000 * 90).contains(&size(many)));
        assert_eq!(size(serde_json::json!({})), 0);
    }
}
