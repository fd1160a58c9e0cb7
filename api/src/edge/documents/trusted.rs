//! Manifests of trusted documents, as build tools of clients write them.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;

use super::hash::DocumentHash;
use super::validation::{Document, Validator};

/// Documents by their id and by the hash of their text.
pub type TrustedDocuments = HashMap<String, Arc<Document>>;

/// Ids may have the prefix `sha256:` (<https://github.com/graphql/graphql-over-http>).
pub fn without_prefix(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

/// Reads a manifest and validates its documents.
///
/// # Errors
/// When the format is unknown, or when a document is invalid or exceeds a limit.
pub fn load(manifest: &[u8], validator: &Validator) -> anyhow::Result<TrustedDocuments> {
    let manifest: Manifest = serde_json::from_slice(manifest)
        .context("not a manifest: expected the JSON that Apollo or GraphQL Code Generator writes")?;
    let mut documents = HashMap::new();
    for (id, text) in manifest.documents()? {
        let mut document = validator.validate(&text, |_| Ok(())).map_err(|refusal| {
            let errors: Vec<_> = refusal.errors().into_iter().map(|error| error.message).collect();
            anyhow!("document {id} is refused: {}", errors.join("; "))
        })?;
        document.is_trusted = true;
        let document = Arc::new(document);
        documents.insert(DocumentHash::of(&text).to_string(), document.clone());
        documents.insert(without_prefix(&id).to_owned(), document);
    }
    Ok(documents)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Manifest {
    /// `@apollo/generate-persisted-query-manifest`
    Apollo { format: String, version: u32, operations: Vec<ApolloOperation> },
    /// `@graphql-codegen/client-preset` with `persistedDocuments`: texts by their hash.
    Codegen(HashMap<String, String>),
}

#[derive(Deserialize)]
struct ApolloOperation {
    id: String,
    body: String,
}

impl Manifest {
    /// Each document's id and text.
    fn documents(self) -> anyhow::Result<Vec<(String, String)>> {
        match self {
            Manifest::Apollo { format, version, operations } => {
                if format != "apollo-persisted-query-manifest" || version != 1 {
                    bail!("manifest format {format:?}, version {version} is not supported");
                }
                Ok(operations.into_iter().map(|operation| (operation.id, operation.body)).collect())
            }
            Manifest::Codegen(documents) => Ok(documents.into_iter().collect()),
        }
    }
}
