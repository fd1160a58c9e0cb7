//! Turns the text of a document into one that can be executed: within the limits and valid for the schema.

use anyhow::anyhow;
use apollo_compiler::executable::{ExecutableDocument, Operation};
use apollo_compiler::introspection::check_max_depth;
use apollo_compiler::validation::{DiagnosticList, Valid};
use apollo_compiler::{Schema, ast};
use async_graphql::parser::types::ExecutableDocument as ParsedDocument;
use async_graphql::{Pos, ServerError};

use super::convert::convert;
use super::limits::LimitSettings;
use super::syntax::remove_unsupported;
use crate::edge::refusal;

/// Validation errors reported for one document.
pub const MAX_ERRORS: usize = 10;
/// Longest message of such an error, in characters: messages quote names from the document.
const MAX_MESSAGE: usize = 300;
/// Memory of a document per token, and a constant part: the largest values measured, rounded up.
const BYTES_PER_TOKEN: usize = 450;
pub const BYTES_PER_DOCUMENT: usize = 4096;

pub const PARSE_FAILED: &str = "GRAPHQL_PARSE_FAILED";

/// A valid document within the limits.
pub struct Document {
    /// With the types of its fields.
    pub validated: Valid<ExecutableDocument>,
    /// The same document for async-graphql, which executes it.
    pub executable: ParsedDocument,
    /// Estimated size in memory.
    pub bytes: usize,
}

impl Document {
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
        let schema = Schema::parse_and_validate(schema, "schema.graphql")
            .map_err(|error| anyhow!("the schema is invalid: {}", error.errors))?;
        Ok(Validator { schema, limits, introspection })
    }

    /// Parses, measures and validates a document.
    pub fn validate(&self, text: &str) -> Result<Document, Vec<ServerError>> {
        let tokens = self.limits.check_text(text).map_err(|error| vec![error])?;
        let supported = remove_unsupported(text);
        let parsed =
            ast::Document::parse(supported, "document").map_err(|error| errors(PARSE_FAILED, &error.errors))?;
        self.limits.check_document(&parsed).map_err(|error| vec![error])?;
        let validated = parsed
            .to_executable_validate(&self.schema)
            .map_err(|error| errors("GRAPHQL_VALIDATION_FAILED", &error.errors))?;
        self.check_introspection(&validated)?;
        let executable = convert(&validated, &self.schema, text);
        Ok(Document { validated, executable, bytes: text.len() + tokens * BYTES_PER_TOKEN + BYTES_PER_DOCUMENT })
    }

    fn check_introspection(&self, document: &Valid<ExecutableDocument>) -> Result<(), Vec<ServerError>> {
        for operation in document.operations.iter() {
            let mut fields = operation.root_fields(document);
            if !self.introspection && fields.any(|field| matches!(field.name.as_str(), "__schema" | "__type")) {
                let message = "Introspection is disabled. The schema is published as schema.graphql.";
                return Err(vec![refusal::error("INTROSPECTION_DISABLED", message, None)]);
            }
            check_max_depth(document, operation).map_err(|error| {
                let message = format!("{}: introspection nests its lists too deeply.", error.message());
                vec![refusal::error("MAX_DEPTH_LIMIT", message, None)]
            })?;
        }
        Ok(())
    }
}

/// The first errors of a document, and the number of the others.
fn errors(code: &str, found: &DiagnosticList) -> Vec<ServerError> {
    let mut errors: Vec<_> = found
        .iter()
        .take(MAX_ERRORS)
        .map(|error| {
            let error = error.to_json();
            let position = error.locations.first().map(|at| Pos { line: at.line, column: at.column });
            refusal::error(code, error.message.chars().take(MAX_MESSAGE).collect::<String>(), position)
        })
        .collect();
    if found.len() > MAX_ERRORS {
        errors.push(refusal::error(code, format!("There are {} more errors.", found.len() - MAX_ERRORS), None));
    }
    errors
}
