//! The values of arguments, beyond what apollo-compiler checks. Execution would find these faults, too, but only after it may have
//! executed other mutations of the request, whose results would be lost.

use std::collections::HashSet;

use apollo_compiler::ast::{Argument, DirectiveList, InputValueDefinition, Type, Value};
use apollo_compiler::executable::{ExecutableDocument, Operation, Selection, SelectionSet};
use apollo_compiler::parser::SourceSpan;
use apollo_compiler::response::{JsonMap, JsonValue};
use apollo_compiler::{Name, Node, Schema};
use async_graphql_value::ConstValue;

use super::convert::convert_value;
use crate::graphql::scalars::check_scalar;

#[derive(Debug)]
pub struct InvalidValue {
    pub message: String,
    pub location: Option<SourceSpan>,
}

/// Checks the values written in the document: no field of an input object is given twice, the type of a variable fits where it is used,
/// also inside lists and input objects, and custom scalars are valid.
pub fn check_values(schema: &Schema, document: &ExecutableDocument, operation: &Operation) -> Result<(), InvalidValue> {
    let check = |place: &Place| {
        let (ty, value) = (place.ty.inner_named_type(), place.value);
        let message = match &**value {
            Value::Null => return Ok(()),
            Value::Variable(name) => {
                let Some(variable) = operation.variables.iter().find(|variable| variable.name == *name) else {
                    return Ok(());
                };
                let has_default =
                    place.has_default || variable.default_value.as_ref().is_some_and(|value| !value.is_null());
                let expected = if has_default { place.ty.clone().nullable() } else { place.ty.clone() };
                if variable.ty.is_assignable_to(&expected) {
                    return Ok(());
                }
                format!("The variable ${name} has the type {}, but {} is expected here.", variable.ty, place.ty)
            }
            Value::Object(fields) if schema.get_input_object(ty).is_some() => {
                let mut names = HashSet::new();
                match fields.iter().find(|(name, _)| !names.insert(name)) {
                    Some((name, _)) => format!("The field {name} of the input object is given more than once."),
                    None => return Ok(()),
                }
            }
            _ => {
                let constant = convert_value(schema, value, ty).into_const().unwrap_or_default();
                match check_scalar(ty, &constant) {
                    Ok(()) => return Ok(()),
                    Err(message) => message,
                }
            }
        };
        Err(InvalidValue { message, location: value.location() })
    };
    Walk { schema, document, entered: HashSet::new(), check }.operation(operation)
}

/// Checks that no variable is null in a place that must not be null. Validation allows such a variable where a default value would
/// apply if the variable were absent.
pub fn check_nulls(
    schema: &Schema,
    document: &ExecutableDocument,
    operation: &Operation,
    variables: &JsonMap,
) -> Result<(), InvalidValue> {
    if !variables.values().any(JsonValue::is_null) {
        return Ok(());
    }
    let check = |place: &Place| match &**place.value {
        Value::Variable(name)
            if place.ty.is_non_null() && variables.get(name.as_str()).is_some_and(JsonValue::is_null) =>
        {
            let message = format!("The variable ${name} must not be null here: leave it out to use the default value.");
            Err(InvalidValue { message, location: place.value.location() })
        }
        _ => Ok(()),
    };
    Walk { schema, document, entered: HashSet::new(), check }.operation(operation)
}

/// Checks the custom scalars in the value of a variable. Everything else was checked when it was coerced.
pub fn check_variable(schema: &Schema, value: &ConstValue, ty: &Type) -> Result<(), String> {
    match (value, schema.get_input_object(ty.inner_named_type())) {
        (ConstValue::Null, _) => Ok(()),
        (ConstValue::List(items), _) if ty.is_list() => {
            items.iter().try_for_each(|item| check_variable(schema, item, ty.item_type()))
        }
        (ConstValue::Object(fields), Some(input)) => fields.iter().try_for_each(|(name, value)| {
            let Some(field) = input.fields.get(name.as_str()) else { return Ok(()) };
            check_variable(schema, value, &field.ty).map_err(|error| format!("{name}: {error}"))
        }),
        _ => check_scalar(ty.inner_named_type(), value),
    }
}

/// A value, and the type that the schema expects in its place.
struct Place<'a> {
    value: &'a Node<Value>,
    ty: &'a Type,
    has_default: bool,
}

/// Visits every value of an operation and its fragments.
struct Walk<'a, F> {
    schema: &'a Schema,
    document: &'a ExecutableDocument,
    /// Fragments that were visited.
    entered: HashSet<&'a Name>,
    check: F,
}

impl<'a, F: FnMut(&Place) -> Result<(), InvalidValue>> Walk<'a, F> {
    fn operation(&mut self, operation: &'a Operation) -> Result<(), InvalidValue> {
        for variable in &operation.variables {
            if let Some(default) = &variable.default_value {
                self.value(Place { value: default, ty: &variable.ty, has_default: false })?;
            }
        }
        self.directives(&operation.directives)?;
        self.selections(&operation.selection_set)
    }

    fn selections(&mut self, set: &'a SelectionSet) -> Result<(), InvalidValue> {
        for selection in &set.selections {
            self.directives(selection.directives())?;
            match selection {
                Selection::Field(field) => {
                    self.arguments(&field.arguments, &field.definition.arguments)?;
                    self.selections(&field.selection_set)?;
                }
                Selection::InlineFragment(inline) => self.selections(&inline.selection_set)?,
                Selection::FragmentSpread(spread) => {
                    let fragment = self.document.fragments.get(&spread.fragment_name);
                    if let Some(fragment) = fragment.filter(|_| self.entered.insert(&spread.fragment_name)) {
                        self.directives(&fragment.directives)?;
                        self.selections(&fragment.selection_set)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn directives(&mut self, directives: &'a DirectiveList) -> Result<(), InvalidValue> {
        for directive in directives.iter() {
            if let Some(definition) = self.schema.directive_definitions.get(&directive.name) {
                self.arguments(&directive.arguments, &definition.arguments)?;
            }
        }
        Ok(())
    }

    fn arguments(
        &mut self,
        arguments: &'a [Node<Argument>],
        definitions: &'a [Node<InputValueDefinition>],
    ) -> Result<(), InvalidValue> {
        for argument in arguments {
            if let Some(definition) = definitions.iter().find(|definition| definition.name == argument.name) {
                let has_default = definition.default_value.is_some();
                self.value(Place { value: &argument.value, ty: &definition.ty, has_default })?;
            }
        }
        Ok(())
    }

    fn value(&mut self, place: Place<'a>) -> Result<(), InvalidValue> {
        let Place { value, ty, .. } = place;
        match &**value {
            Value::List(items) if ty.is_list() => items
                .iter()
                .try_for_each(|item| self.value(Place { value: item, ty: ty.item_type(), has_default: false })),
            Value::Object(fields) => {
                (self.check)(&place)?;
                let input = self.schema.get_input_object(ty.inner_named_type());
                fields.iter().try_for_each(|(name, value)| {
                    let Some(field) = input.and_then(|input| input.fields.get(name)) else { return Ok(()) };
                    self.value(Place { value, ty: &field.ty, has_default: field.default_value.is_some() })
                })
            }
            _ => (self.check)(&place),
        }
    }
}
