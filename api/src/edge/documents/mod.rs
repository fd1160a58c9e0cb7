//! GraphQL documents. Each is parsed, measured and validated once and then served from the [`cache`].
//!
//! - [`limits`]: settings of all limits; [`measure`]: sizes of documents
//! - [`cost`] and [`sizes`]: the cost of an operation and the size of its response, by the directives of the schema
//! - [`validation`]: from text to a valid document
//! - [`convert`] and [`variables`]: a valid document and its variables for async-graphql, which executes them
//! - [`selected`]: the operation that is executed
//! - [`values`]: checks of argument values that must come before execution
//! - [`syntax`]: removes syntax that the parser does not support
//! - [`position`]: lines and columns
//! - [`cache`] and [`hash`]: validated documents by the SHA-256 of their text
//! - [`trusted`]: manifests; if one is configured, only its documents run

pub mod cache;
pub mod convert;
pub mod cost;
pub mod hash;
pub mod limits;
pub mod measure;
pub mod position;
pub mod selected;
pub mod sizes;
pub mod syntax;
pub mod trusted;
pub mod validation;
pub mod values;
pub mod variables;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use apollo_compiler::Schema;
use apollo_compiler::validation::Valid;
use runtime::settings::read_file;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use self::cache::DocumentCache;
use self::hash::DocumentHash;
use self::limits::LimitSettings;
use self::trusted::{TrustedDocuments, without_prefix};
use self::validation::{Document, Validator};
use crate::edge::executor::VALIDATION_COST;
use crate::edge::quota::ConcurrencyQuota;
use crate::edge::rate_limits::Meter;
use crate::edge::refusal::{self, Refusal};

/// Each of so many bytes of a new document costs [`VALIDATION_COST`].
const BYTES_PER_CHARGE: usize = 1024;
/// Size limit of a manifest.
const MAX_MANIFEST_BYTES: usize = 16 * 1024 * 1024;
/// Validations that may wait or run, in total and per caller.
const MAX_VALIDATIONS: usize = 256;
const MAX_VALIDATIONS_PER_CALLER: usize = 64;

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Documents")]
pub struct DocumentSettings {
    /// Memory for the cache of validated documents, in bytes
    #[arg(long, env, default_value_t = 32 * 1024 * 1024)]
    pub document_cache_bytes: u64,
    /// Let clients send the SHA-256 of a document instead of its text (automatic persisted queries)
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub persisted_queries: bool,
    /// File with the only documents that may run, written by Apollo's or GraphQL Code Generator's tools (unset: any)
    #[arg(long, env)]
    pub trusted_documents: Option<PathBuf>,
}

/// The document of a request: its text, its id, or both.
#[derive(Clone, Copy, Debug, Default)]
pub struct DocumentRef<'a> {
    pub text: Option<&'a str>,
    pub id: Option<&'a str>,
}

/// The rights of the sender of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Without a token, only trusted documents run: nothing else is even parsed.
    Anonymous,
    Identified,
    /// The token allows any document, trusted or not.
    Explorer,
}

/// A text that is neither trusted nor cached.
#[derive(Debug)]
pub struct NewDocument<'a> {
    text: &'a str,
    hash: DocumentHash,
}

pub enum Found<'a> {
    Valid(Arc<Document>),
    New(NewDocument<'a>),
}

pub struct Documents {
    validator: Arc<Validator>,
    /// Validations that wait or run.
    pending: Arc<ConcurrencyQuota>,
    /// Validations that run at the same time, at most on half of the processors.
    validating: Arc<Semaphore>,
    persisted_queries: bool,
    cache: DocumentCache,
    /// The only documents that run, if a manifest is configured.
    trusted: Option<TrustedDocuments>,
    /// The documents of the built-in pages. They always run, by their id.
    built_in: TrustedDocuments,
}

impl Documents {
    /// `schema` is in the schema definition language.
    ///
    /// # Errors
    /// When the manifest cannot be read, or one of its documents is refused.
    pub fn new(
        schema: &str,
        limits: LimitSettings,
        settings: &DocumentSettings,
        introspection: bool,
    ) -> anyhow::Result<Documents> {
        let validator = Validator::new(schema, limits, introspection)?;
        let load = |path: &PathBuf| {
            let manifest = read_file(path, MAX_MANIFEST_BYTES).map_err(Into::into);
            let documents = manifest.and_then(|manifest| trusted::load(&manifest, &validator));
            documents.with_context(|| format!("TRUSTED_DOCUMENTS ({})", path.display()))
        };
        let trusted = settings.trusted_documents.as_ref().map(load).transpose()?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Documents {
            validator: Arc::new(validator),
            pending: ConcurrencyQuota::new(MAX_VALIDATIONS, MAX_VALIDATIONS_PER_CALLER),
            validating: Arc::new(Semaphore::new(processors.div_ceil(2))),
            persisted_queries: settings.persisted_queries,
            cache: cache::new(settings.document_cache_bytes)?,
            trusted,
            built_in: TrustedDocuments::new(),
        })
    }

    /// Adds documents that always run, even when others must be trusted. Clients send their ids.
    ///
    /// # Errors
    /// When one of them is refused.
    pub fn add_built_in(&mut self, manifest: &[u8]) -> anyhow::Result<()> {
        self.built_in = trusted::load(manifest, &self.validator)?;
        Ok(())
    }

    pub fn schema(&self) -> &Valid<Schema> {
        &self.validator.schema
    }

    /// Finds the document of a request without parsing anything.
    pub fn find<'a>(&self, document: DocumentRef<'a>, access: Access) -> Result<Found<'a>, Refusal> {
        let id = document.id.map(without_prefix);
        if let (None, Some(document)) = (document.text, id.and_then(|id| self.built_in.get(id))) {
            return Ok(Found::Valid(document.clone()));
        }
        if access == Access::Anonymous && self.trusted.is_none() {
            return Err(Refusal::NoToken);
        }
        let hash = document.text.map(DocumentHash::of);
        if let Some(trusted) = &self.trusted {
            match find_trusted(trusted, hash, id) {
                Some(document) => return Ok(Found::Valid(document.clone())),
                None if access == Access::Explorer => {}
                None => {
                    let message = "This document is not trusted. Only the documents of the manifest run.";
                    return Err(refusal::error("QUERY_NOT_IN_SAFELIST", message, None).into());
                }
            }
        }
        if id.is_some() && !self.persisted_queries {
            return Err(refusal::error("PERSISTED_QUERY_NOT_SUPPORTED", "PersistedQueryNotSupported", None).into());
        }
        match (document.text, hash, id) {
            (Some(_), Some(hash), Some(id)) if hash.to_string() != id => {
                let message = "`query` does not match its SHA-256 in `extensions.persistedQuery` or `documentId`.";
                Err(refusal::error("BAD_REQUEST", message, None).into())
            }
            (Some(text), Some(hash), _) => {
                Ok(self.cache.get(&hash).map_or(Found::New(NewDocument { text, hash }), Found::Valid))
            }
            // Clients recognise this message and send the text as well.
            _ => id
                .and_then(|id| self.cache.get(&DocumentHash::parse(id)?))
                .map(Found::Valid)
                .ok_or_else(|| refusal::error("PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound", None).into()),
        }
    }

    /// Validates a new document at the expense of the caller and puts it into the cache. It runs on a thread of its own, because
    /// it would delay the other operations of an asynchronous thread.
    ///
    /// # Errors
    /// When it is refused, or the caller has spent its rate limit or has too many validations.
    pub async fn validate(&self, new: NewDocument<'_>, meter: &Meter) -> Result<Arc<Document>, Refusal> {
        // Requests for the same document wait for the first of them.
        let place = match self.cache.get_value_or_guard_async(&new.hash).await {
            Ok(document) => return Ok(document),
            Err(place) => place,
        };
        let _pending = self.pending.acquire(meter.key.clone())?;
        meter.charge(VALIDATION_COST * (1 + new.text.len() / BYTES_PER_CHARGE))?;
        let permit = self.validating.clone().acquire_owned().await.map_err(|_| Refusal::Busy)?;
        let (validator, text, meter) = (self.validator.clone(), new.text.to_owned(), meter.clone());
        let validated = run_blocking(move || {
            let _permit = permit; // also of a request that is gone
            validator.validate(&text, |cost| meter.charge(cost))
        });
        let document = Arc::new(validated.await?);
        // The cache may have no room for it.
        let _ = place.insert(document.clone());
        Ok(document)
    }
}

async fn run_blocking<T: Send + 'static>(
    validation: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let panicked = |_| Err(Refusal::internal(&"the validation of a document panicked"));
    spawn_blocking(validation).await.unwrap_or_else(panicked)
}

/// Text and id must name the same document.
fn find_trusted<'a>(
    trusted: &'a TrustedDocuments,
    hash: Option<DocumentHash>,
    id: Option<&str>,
) -> Option<&'a Arc<Document>> {
    let by_id = id.map(|id| trusted.get(id));
    let by_text = hash.map(|hash| trusted.get(&hash.to_string()));
    match (by_text, by_id) {
        (Some(document), None) | (None, Some(document)) => document,
        (Some(Some(document)), Some(Some(same))) if Arc::ptr_eq(document, same) => Some(document),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
