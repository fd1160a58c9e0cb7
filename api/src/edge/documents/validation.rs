//! Turns the text of a document into one that can be executed: within the limits and valid for the schema.

use anyhow::anyhow;
use apollo_compiler::diagnostic::ToCliReport;
use apollo_compiler::executable::{ExecutableDocument, Operation};
use apollo_compiler::introspection::check_max_depth;
use apollo_compiler::parser::SourceSpan;
use apollo_compiler::schema::ExtendedType;
use apollo_compiler::validation::{DiagnosticList, Valid};
use apollo_compiler::{Schema, ast};
use async_graphql::parser::types::ExecutableDocument as ParsedDocument;
use async_graphql::{Pos, ServerError};

use super::convert::convert;
use super::cost::estimate;
use super::limits::LimitSettings;
use super::position::Positions;
use super::syntax::remove_unsupported;
use super::values::check_values;
use crate::edge::executor::VALIDATION_COST;
use crate::edge::refusal::{self, Refusal};

/// Validation errors reported for one document.
pub const MAX_ERRORS: usize = 10;
/// Memory of a document per token, and a constant part: the largest values measured, rounded up.
const BYTES_PER_TOKEN: usize = 450;
pub const BYTES_PER_DOCUMENT: usize = 4096;

/// Tokens, or selections after expanding fragments, of which the validation is charged like a refused request.
const TOKENS_PER_CHARGE: usize = 50;

/// The introspection field that async-graphql has and apollo-compiler does not know. graphql-js asks for it with its option `oneOf`.
const MORE_INTROSPECTION: &str = "extend type __Type { isOneOf: Boolean }";

/// Parts of messages of apollo-compiler.
const UNKNOWN_FIELD: &str = "does not have a field";
const NO_SELECTION: &str = "must have a subselection set";

pub const PARSE_FAILED: &str = "GRAPHQL_PARSE_FAILED";
const VALIDATION_FAILED: &str = "GRAPHQL_VALIDATION_FAILED";

/// A valid document within the limits.
pub struct Document {
    /// With the types of its fields.
    pub validated: Valid<ExecutableDocument>,
    /// The same document for async-graphql, which executes it.
    pub executable: ParsedDocument,
    /// The text of the client, if columns differ in the text that was parsed.
    original: Option<Box<str>>,
    /// Estimated size in memory.
    pub bytes: usize,
    /// The cost of preparing one of its operations, which is a part of the cost of the operation.
    pub weight: usize,
    /// Whether it is from a manifest, so that no caller has chosen the names in it.
    pub is_trusted: bool,
}

impl Document {
    /// Line and column of a location. apollo-compiler's own method would keep an index of lines in the cached document.
    pub fn position(&self, location: SourceSpan) -> Option<Pos> {
        let source = self.validated.sources.get(&location.file_id())?;
        let text = self.original.as_deref().unwrap_or(source.source_text());
        Some(Positions::new(text).at(location.offset()))
    }

    /// The operation with this name, or the only one.
    pub fn operation(&self, name: Option<&str>) -> Result<&Operation, ServerError> {
        let operation = self.validated.operations.get(name);
        operation.map(|operation| &**operation).map_err(|_| {
            let message = match name {
                Some(name) => format!("The document has no operation named {name:?}."),
                None => "The document has several operations: select one with `operationName`.".into(),
            };
            refusal::error("OPERATION_RESOLUTION_FAILURE", message, None)
        })
    }
}

pub struct Validator {
    pub schema: Valid<Schema>,
    limits: LimitSettings,
    introspection: bool,
}

impl Validator {
    /// `schema` is in the schema definition language.
    pub fn new(schema: &str, limits: LimitSettings, introspection: bool) -> anyhow::Result<Validator> {
        let invalid = |errors| anyhow!("the schema is invalid: {errors}");
        let mut schema = Schema::parse(format!("{schema}\n{MORE_INTROSPECTION}"), "schema.graphql")
            .map_err(|error| invalid(error.errors))?;
        refuse_null_in_introspection(&mut schema);
        let schema = schema.validate().map_err(|error| invalid(error.errors))?;
        Ok(Validator { schema, limits, introspection })
    }

    /// Parses, measures and validates a document. Each step is charged before it is done, by what the step before has measured.
    /// A document that can never run is refused, so that it does not get into the cache.
    pub fn validate(&self, text: &str, charge: impl Fn(usize) -> Result<(), Refusal>) -> Result<Document, Refusal> {
        let tokens = self.limits.check_text(text)?;
        charge(VALIDATION_COST * (tokens / TOKENS_PER_CHARGE))?;
        let supported = remove_unsupported(text);
        let original = (supported.chars().count() != text.chars().count()).then(|| Box::from(text));
        let parsed =
            ast::Document::parse(supported, "document").map_err(|error| errors(PARSE_FAILED, &error.errors, text))?;
        let size = self.limits.check_document(&parsed)?;
        self.limits.check_cost(size.min_fields)?;
        charge(VALIDATION_COST * (size.selections / TOKENS_PER_CHARGE))?;
        let validated = parsed
            .to_executable_validate(&self.schema)
            .map_err(|error| errors(VALIDATION_FAILED, &error.errors, text))?;
        self.check_introspection(&validated)?;
        for operation in validated.operations.iter() {
            check_values(&self.schema, &validated, operation).map_err(|error| {
                let position = error.location.map(|location| Positions::new(text).at(location.offset()));
                refusal::error(VALIDATION_FAILED, error.message, position)
            })?;
        }
        self.check_estimates(&validated)?;
        let executable = convert(&validated, &self.schema, text);
        let texts = text.len() + original.as_deref().map_or(0, str::len);
        let bytes = texts + tokens * BYTES_PER_TOKEN + BYTES_PER_DOCUMENT;
        let weight = (tokens.max(size.selections) / TOKENS_PER_CHARGE).max(1);
        Ok(Document { validated, executable, original, bytes, weight, is_trusted: false })
    }

    /// Refuses a document with no operation that is within the limits for any variables.
    fn check_estimates(&self, document: &ExecutableDocument) -> Result<(), ServerError> {
        let mut refused = Ok(());
        for operation in document.operations.iter() {
            let least = estimate(&self.schema, document, operation, None);
            refused = self.limits.check_cost(least.cost).and_then(|()| self.limits.check_response(least.bytes));
            if refused.is_ok() {
                break;
            }
        }
        refused
    }

    fn check_introspection(&self, document: &Valid<ExecutableDocument>) -> Result<(), ServerError> {
        for operation in document.operations.iter() {
            let mut fields = operation.root_fields(document);
            if !self.introspection && fields.any(|field| matches!(field.name.as_str(), "__schema" | "__type")) {
                let message = "Introspection is disabled. The schema is published as schema.graphql.";
                return Err(refusal::error("INTROSPECTION_DISABLED", message, None));
            }
            check_max_depth(document, operation).map_err(|error| {
                let message = format!("{}: introspection nests its lists too deeply.", error.message());
                refusal::error("MAX_DEPTH_LIMIT", message, None)
            })?;
        }
        Ok(())
    }
}

/// Gives `includeDeprecated` the type `Boolean! = false`, as in async-graphql and in the specification since September 2025.
/// apollo-compiler has the older `Boolean = false`, and null would fail in execution.
fn refuse_null_in_introspection(schema: &mut Schema) {
    for (name, ty) in &mut schema.types {
        let (true, ExtendedType::Object(object)) = (name.starts_with("__"), ty) else { continue };
        for field in object.make_mut().fields.values_mut() {
            for argument in &mut field.make_mut().arguments {
                if argument.default_value.is_some() {
                    let argument = argument.make_mut();
                    argument.ty = argument.ty.as_ref().clone().non_null().into();
                }
            }
        }
    }
}

/// The first errors of a document, and the number of the others. `text` is as the client sent it, so that columns are right.
fn errors(code: &str, found: &DiagnosticList, text: &str) -> Refusal {
    let positions = Positions::new(text);
    let found: Vec<_> = found.iter().map(|error| (error.error.to_string(), error.error.location())).collect();
    // An unknown field is also reported as a missing selection of the field around it, and that before the cause.
    let has_unknown_field = found.iter().any(|(message, _)| message.contains(UNKNOWN_FIELD));
    let is_consequence = |message: &str| has_unknown_field && message.contains(NO_SELECTION);
    let found: Vec<_> = found.into_iter().filter(|(message, _)| !is_consequence(message)).collect();
    let reported = found.iter().take(MAX_ERRORS).map(|(message, location)| {
        let position = location.map(|location| positions.at(location.offset()));
        refusal::error(code, message.as_str(), position)
    });
    let mut errors: Vec<_> = reported.collect();
    if found.len() > MAX_ERRORS {
        errors.push(refusal::error(code, format!("There are {} more errors.", found.len() - MAX_ERRORS), None));
    }
    Refusal::Invalid(errors)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        limits: LimitSettings,
    }

    #[test]
    fn columns_after_a_description_count_characters_of_the_original_text() {
        let validator =
            Validator::new("type Query { a(b: Int!): Int }", Cli::parse_from(["test"]).limits, false).unwrap();
        let validate = |text: &str| validator.validate(text, |_| Ok(()));
        let column = |text: &str| validate(text).err().unwrap().errors()[0].locations[0].column;
        for (plain, accented) in [
            ("\"e\" query { unknown }", "\"\u{e9}\" query { unknown }"),
            ("\"e\" query { a(b: ) }", "\"\u{1F600}\" query { a(b: ) }"),
        ] {
            assert_eq!(column(plain), column(accented), "{plain}");
        }

        let text = "\"\u{e9}\" query ($b: Int!) { a(b: $b) }";
        let document = validate(text).unwrap();
        let variable = document.operation(None).unwrap().variables[0].location().unwrap();
        assert_eq!(document.position(variable), Some(Pos { line: 1, column: 12 }));
    }
}
