//! Converts the document that apollo-compiler has validated into the one that async-graphql executes. The text is parsed only
//! once: two parsers would differ in strings, numbers and ignored tokens, so that another document would be executed than the
//! validated one.

use apollo_compiler::ast::{
    Argument, DirectiveList, InputValueDefinition, OperationType, Type, Value, VariableDefinition,
};
use apollo_compiler::executable::{ExecutableDocument, Field, Operation, Selection, SelectionSet};
use apollo_compiler::parser::SourceSpan;
use apollo_compiler::validation::Valid;
use apollo_compiler::{Name, Node, Schema};
use async_graphql::parser::types;
use async_graphql::{Number, Pos, Positioned};
use async_graphql_value::Value as Converted;

use super::position::Positions;

/// `text` is the source of the document.
pub fn convert(document: &Valid<ExecutableDocument>, schema: &Valid<Schema>, text: &str) -> types::ExecutableDocument {
    Converter { document, schema, positions: Positions::new(text) }.document()
}

struct Converter<'a> {
    document: &'a ExecutableDocument,
    schema: &'a Schema,
    positions: Positions<'a>,
}

impl Converter<'_> {
    fn document(&self) -> types::ExecutableDocument {
        let operations = match &self.document.operations.anonymous {
            Some(operation) => types::DocumentOperations::Single(self.operation(operation)),
            None => {
                let named = self.document.operations.named.iter();
                types::DocumentOperations::Multiple(
                    named.map(|(name, operation)| (convert_name(name), self.operation(operation))).collect(),
                )
            }
        };
        let fragments = self.document.fragments.iter().map(|(name, fragment)| {
            let definition = types::FragmentDefinition {
                type_condition: self.type_condition(fragment.type_condition()),
                directives: self.directives(&fragment.directives),
                selection_set: self.selection_set(&fragment.selection_set, fragment.location()),
            };
            (convert_name(name), self.positioned(definition, fragment.location()))
        });
        types::ExecutableDocument { operations, fragments: fragments.collect() }
    }

    fn operation(&self, operation: &Node<Operation>) -> Positioned<types::OperationDefinition> {
        let mut selection_set = self.selection_set(&operation.selection_set, operation.location());
        let ty = match operation.operation_type {
            OperationType::Query => types::OperationType::Query,
            OperationType::Mutation => types::OperationType::Mutation,
            OperationType::Subscription => {
                // async-graphql ignores fragments at the root of a subscription. Validation allows one field there.
                let fields = operation.root_fields(self.document);
                selection_set.node.items = fields.map(|field| self.field(field)).collect();
                types::OperationType::Subscription
            }
        };
        let definition = types::OperationDefinition {
            ty,
            variable_definitions: operation.variables.iter().map(|variable| self.variable(variable)).collect(),
            directives: self.directives(&operation.directives),
            selection_set,
        };
        self.positioned(definition, operation.location())
    }

    fn variable(&self, variable: &Node<VariableDefinition>) -> Positioned<types::VariableDefinition> {
        let default_value = variable.default_value.as_ref().and_then(|default| {
            let value = convert_value(self.schema, default, variable.ty.inner_named_type()).into_const()?;
            Some(self.positioned(value, default.location()))
        });
        let definition = types::VariableDefinition {
            name: self.name(&variable.name),
            var_type: self.positioned(variable_type(&variable.ty), variable.ty.location()),
            directives: self.directives(&variable.directives),
            default_value,
        };
        self.positioned(definition, variable.location())
    }

    fn selection_set(&self, set: &SelectionSet, location: Option<SourceSpan>) -> Positioned<types::SelectionSet> {
        let items = set.selections.iter().map(|selection| match selection {
            Selection::Field(field) => self.field(field),
            Selection::FragmentSpread(spread) => {
                let converted = types::FragmentSpread {
                    fragment_name: self.name(&spread.fragment_name),
                    directives: self.directives(&spread.directives),
                };
                let position = self.position(spread.location());
                Positioned::new(types::Selection::FragmentSpread(Positioned::new(converted, position)), position)
            }
            Selection::InlineFragment(inline) => {
                let converted = types::InlineFragment {
                    type_condition: inline.type_condition.as_ref().map(|name| self.type_condition(name)),
                    directives: self.directives(&inline.directives),
                    selection_set: self.selection_set(&inline.selection_set, inline.location()),
                };
                let position = self.position(inline.location());
                Positioned::new(types::Selection::InlineFragment(Positioned::new(converted, position)), position)
            }
        });
        self.positioned(types::SelectionSet { items: items.collect() }, location)
    }

    fn field(&self, field: &Node<Field>) -> Positioned<types::Selection> {
        let converted = types::Field {
            alias: field.alias.as_ref().map(|alias| self.name(alias)),
            name: self.name(&field.name),
            arguments: self.arguments(&field.arguments, &field.definition.arguments),
            directives: self.directives(&field.directives),
            selection_set: self.selection_set(&field.selection_set, field.location()),
        };
        let position = self.position(field.location());
        Positioned::new(types::Selection::Field(Positioned::new(converted, position)), position)
    }

    fn directives(&self, directives: &DirectiveList) -> Vec<Positioned<types::Directive>> {
        let convert = |directive: &Node<apollo_compiler::ast::Directive>| {
            let definition = self.schema.directive_definitions.get(&directive.name);
            let definitions = definition.map_or(&[][..], |definition| &definition.arguments);
            let converted = types::Directive {
                name: self.name(&directive.name),
                arguments: self.arguments(&directive.arguments, definitions),
            };
            self.positioned(converted, directive.location())
        };
        directives.iter().map(convert).collect()
    }

    fn arguments(
        &self,
        arguments: &[Node<Argument>],
        definitions: &[Node<InputValueDefinition>],
    ) -> Vec<(Positioned<async_graphql::Name>, Positioned<Converted>)> {
        let convert = |argument: &Node<Argument>| {
            let definition = definitions.iter().find(|definition| definition.name == argument.name)?;
            let value = convert_value(self.schema, &argument.value, definition.ty.inner_named_type());
            Some((self.name(&argument.name), self.positioned(value, argument.value.location())))
        };
        arguments.iter().filter_map(convert).collect()
    }

    fn type_condition(&self, name: &Name) -> Positioned<types::TypeCondition> {
        self.positioned(types::TypeCondition { on: self.name(name) }, name.location())
    }

    fn name(&self, name: &Name) -> Positioned<async_graphql::Name> {
        self.positioned(convert_name(name), name.location())
    }

    fn positioned<T>(&self, node: T, location: Option<SourceSpan>) -> Positioned<T> {
        Positioned::new(node, self.position(location))
    }

    fn position(&self, location: Option<SourceSpan>) -> Pos {
        location.map_or_else(Pos::default, |location| self.positions.at(location.offset()))
    }
}

/// Converts a value of this named type, or a list of such values.
pub fn convert_value(schema: &Schema, value: &Value, ty: &Name) -> Converted {
    match value {
        Value::Null => Converted::Null,
        Value::Enum(name) => Converted::Enum(convert_name(name)),
        Value::Variable(name) => Converted::Variable(convert_name(name)),
        Value::String(text) => Converted::String(text.clone()),
        Value::Boolean(value) => Converted::Boolean(*value),
        // An ID may have more digits than any number type.
        Value::Int(number) if *ty == "ID" => Converted::String(number.as_str().to_owned()),
        Value::Int(number) => convert_number(number.as_str()),
        Value::Float(number) => convert_number(number.as_str()),
        Value::List(items) => Converted::List(items.iter().map(|item| convert_value(schema, item, ty)).collect()),
        Value::Object(fields) => {
            let input = schema.get_input_object(ty);
            let convert = |(name, value): &(Name, Node<Value>)| {
                // A custom scalar may be an object, too.
                let field = input.and_then(|input| input.fields.get(name));
                let ty = field.map_or(ty, |field| field.ty.inner_named_type());
                (convert_name(name), convert_value(schema, value, ty))
            };
            Converted::Object(fields.iter().map(convert).collect())
        }
    }
}

fn convert_name(name: &Name) -> async_graphql::Name {
    async_graphql::Name::new(name)
}

/// A number without a finite value remains text, which no type accepts as a number.
fn convert_number(text: &str) -> Converted {
    let integer = text.parse::<i64>().ok().map(Number::from);
    let number = integer.or_else(|| text.parse().ok().and_then(Number::from_f64));
    number.map_or_else(|| Converted::String(text.to_owned()), Converted::Number)
}

fn variable_type(ty: &Type) -> types::Type {
    let base = match ty {
        Type::Named(name) | Type::NonNullNamed(name) => types::BaseType::Named(convert_name(name)),
        Type::List(item) | Type::NonNullList(item) => types::BaseType::List(Box::new(variable_type(item))),
    };
    types::Type { base, nullable: !ty.is_non_null() }
}

#[cfg(test)]
mod tests;
