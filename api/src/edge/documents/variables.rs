//! Variables of a request, as async-graphql executes them.

use apollo_compiler::Schema;
use apollo_compiler::executable::Operation;
use apollo_compiler::response::JsonMap;
use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use async_graphql::{Name, SerializerError, Variables};
use async_graphql_value::Value;

use super::convert::convert_value;

/// Converts the coerced variables of an operation. Default values come from the document: as JSON, a large ID would lose digits
/// and `-0` would be no integer.
pub fn convert(
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
pub fn omit_absent(document: &mut ExecutableDocument, variables: &Variables) {
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
