//! GraphQL documents. Each is parsed, measured and validated once and then served from the [`cache`].
//!
//! - [`limits`]: bounds on size and cost
//! - [`cost`] and [`sizes`]: the cost of an operation and the size of its response, by the directives of the schema
//! - [`validation`]: from text to a valid document
//! - [`convert`] and [`variables`]: a valid document and its variables for async-graphql, which executes them
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
pub mod position;
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
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use self::cache::DocumentCache;
use self::hash::DocumentHash;
use self::limits::LimitSettings;
use self::trusted::{TrustedDocuments, without_prefix};
use self::validation::{Document, Validator};
use crate::edge::executor::VALIDATION_COST;
use crate::edge::quota::{ConcurrencyQuota, Meter};
use crate::edge::refusal::{self, Refusal};

/// Each of so many bytes of a new document costs [`VALIDATION_COST`].
const BYTES_PER_CHARGE: usize = 1024;
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
            let manifest = std::fs::read(path).map_err(Into::into);
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
            return Err(Refusal::token_required());
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
mod tests {
    use super::validation::{MAX_ERRORS, PARSE_FAILED};
    use super::*;
    use crate::edge::quota::{QuotaKey, RateLimits};
    use async_graphql::ServerError;
    use clap::Parser;
    use std::sync::LazyLock;
    use tokio::runtime::Runtime;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        documents: DocumentSettings,
        #[command(flatten)]
        limits: LimitSettings,
    }

    fn documents(flags: &[&str], introspection: bool) -> anyhow::Result<Documents> {
        let cli = Cli::parse_from([&["test"], flags].concat());
        Documents::new(&crate::graphql::schema(None).sdl(), cli.limits, &cli.documents, introspection)
    }

    fn text(text: &str) -> DocumentRef<'_> {
        DocumentRef { text: Some(text), id: None }
    }

    fn id(id: &str) -> DocumentRef<'_> {
        DocumentRef { text: None, id: Some(id) }
    }

    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

    impl Documents {
        fn find_unmetered(&self, document: DocumentRef, may_explore: bool) -> Result<Arc<Document>, Vec<ServerError>> {
            let access = if may_explore { Access::Explorer } else { Access::Identified };
            self.find_metered(document, access, &Meter::new(Arc::default(), QuotaKey::Subject("tester".into())))
                .map_err(Refusal::errors)
        }

        fn find_metered(&self, document: DocumentRef, access: Access, meter: &Meter) -> Result<Arc<Document>, Refusal> {
            match self.find(document, access)? {
                Found::Valid(document) => Ok(document),
                Found::New(new) => RUNTIME.block_on(self.validate(new, meter)),
            }
        }
    }

    /// The code of the first error.
    fn refused(found: Result<Arc<Document>, Vec<ServerError>>) -> String {
        let error = found.err().expect("the document is accepted").remove(0);
        error.extensions.unwrap().get("code").unwrap().to_string().replace('"', "")
    }

    const QUERY: &str = "{ product(id: 1) { name } }";

    #[test]
    fn a_document_is_validated_once_and_then_found_by_its_hash() {
        let documents = documents(&[], true).unwrap();
        let hash = DocumentHash::of(QUERY).to_string();
        assert_eq!(hash.len(), 64);
        assert_eq!(refused(documents.find_unmetered(id(&hash), false)), "PERSISTED_QUERY_NOT_FOUND");
        let first = documents.find_unmetered(text(QUERY), false).unwrap();
        for document in [text(QUERY), id(&hash), id(&format!("sha256:{hash}"))] {
            assert!(Arc::ptr_eq(&first, &documents.find_unmetered(document, false).unwrap()));
        }
        let mismatch = DocumentRef { text: Some("{ products { nodes { id } } }"), id: Some(&hash) };
        assert_eq!(refused(documents.find_unmetered(mismatch, false)), "BAD_REQUEST");
        // Refused documents are not cached.
        let wrong = "{ nothing }";
        assert_eq!(refused(documents.find_unmetered(text(wrong), false)), "GRAPHQL_VALIDATION_FAILED");
        assert_eq!(
            refused(documents.find_unmetered(id(&DocumentHash::of(wrong).to_string()), false)),
            "PERSISTED_QUERY_NOT_FOUND"
        );

        let without = super::tests::documents(&["--persisted-queries", "false"], true).unwrap();
        without.find_unmetered(text(QUERY), false).unwrap();
        assert_eq!(refused(without.find_unmetered(id(&hash), false)), "PERSISTED_QUERY_NOT_SUPPORTED");
    }

    #[test]
    fn without_a_token_only_trusted_documents_are_found() {
        let documents = documents(&[], true).unwrap();
        let meter = Meter::new(Arc::default(), QuotaKey::Subject("tester".into()));
        documents.find_unmetered(text(QUERY), false).unwrap();
        let hash = DocumentHash::of(QUERY).to_string();
        for document in
            [text(QUERY), id(&hash), text("{ nothing }"), text("{"), text("{ __schema { types { name } } }")]
        {
            let refusal = documents.find_metered(document, Access::Anonymous, &meter).err().unwrap();
            assert!(matches!(refusal, Refusal::Http { status, .. } if status == 401), "{document:?}: {refusal:?}");
        }
    }

    #[test]
    fn a_new_document_is_charged_by_its_bytes_tokens_and_selections() {
        let documents = documents(&[], true).unwrap();
        // Measures how much is left of a budget of 1000 after this document.
        let cost = |document: &str| {
            let meter = Meter::new(RateLimits::shared(1, 1_000), QuotaKey::Subject("tester".into()));
            let _ = documents.find_metered(text(document), Access::Identified, &meter);
            1_000 - (1..=1_000).take_while(|_| meter.charge(1).is_ok()).count()
        };
        assert_eq!(cost("{ product(id: 1) { id } }"), 10);
        assert_eq!(cost(&format!("{{ product(id: 1) {{ id }} }} #{}", "x".repeat(5_000))), 10 + 40);
        assert_eq!(cost(&format!("{{ product(id: 1) {{ {} }} }}", "id ".repeat(493))), 10 + 10 + 100 + 90);
        let spreads = format!(
            "{{ product(id: 1) {{ {} }} }} fragment f on Product {{ {} }}",
            "...f ".repeat(20),
            "id ".repeat(20)
        );
        assert_eq!(cost(&spreads), 10 + 10 + 80, "{}", "selections of fragments count wherever they are used");
        assert_eq!(cost("{ nothing }"), 10);
    }

    #[test]
    fn documents_that_can_never_run_are_not_cached() {
        let documents = documents(&["--max-response-bytes", "100000"], true).unwrap();
        let expensive =
            "clients(first: 100) { nodes { id name email version orderCount total { amount } edges: version } }";
        let large = "clients(first: 100) { nodes { name a: name } }";
        for (document, code) in [
            (format!("{{ {expensive} other: {expensive} }}"), "MAX_COMPLEXITY_LIMIT"),
            (format!("{{ {large} }}"), "MAX_RESPONSE_LIMIT"),
            (format!("{{ product(id: 1) {{ {} }} }}", "id ".repeat(1_001)), "MAX_COMPLEXITY_LIMIT"),
            ("{ nothing }".into(), "GRAPHQL_VALIDATION_FAILED"),
        ] {
            assert_eq!(refused(documents.find_unmetered(text(&document), false)), code, "{document}");
        }
        assert_eq!(documents.cache.len(), 0);
        // These can run: with other variables, or with another name.
        for document in [
            large.replace("100", "$n").replace("clients", "query ($n: Int!) { clients") + " }",
            format!("query A {{ {large} }} query B {{ __typename }}"),
        ] {
            documents.find_unmetered(text(&document), false).unwrap();
        }
        assert_eq!(documents.cache.len(), 2);
    }

    #[test]
    fn a_panic_during_validation_is_an_internal_error() {
        let refusal = RUNTIME.block_on(run_blocking(|| -> Result<(), _> { panic!("by the test") })).unwrap_err();
        let error = &refusal.errors()[0];
        assert_eq!(refusal::code(error), Some("INTERNAL_SERVER_ERROR"));
        assert!(error.extensions.as_ref().unwrap().get("id").is_some() && !error.message.contains("test"));
    }

    #[test]
    fn the_cache_is_bounded_by_bytes() {
        let documents = documents(&["--document-cache-bytes", "200000"], true).unwrap();
        for n in 0..2_000 {
            documents.find_unmetered(text(&format!("query Q{n} {QUERY}")), false).unwrap();
            assert!(documents.cache.weight() <= 200_000);
        }
        assert!(documents.cache.len() > 10);
    }

    #[test]
    fn at_most_ten_errors_are_reported_with_their_positions() {
        let documents = documents(&[], true).unwrap();
        let unknown: String = (0..20).map(|n| format!(" nothing{n}")).collect();
        let errors = documents.find_unmetered(text(&format!("{{\n{unknown} }}")), false).err().unwrap();
        assert_eq!(errors.len(), MAX_ERRORS + 1);
        assert_eq!((errors[0].locations[0].line, errors[0].locations[0].column), (2, 2));
        assert_eq!(errors[MAX_ERRORS].message, "There are 10 more errors.");
        for wrong in ["", "{", "{ }", "query { product(id: ) { id } }", "type A { a: Int } {", "\u{0}"] {
            assert_eq!(refused(documents.find_unmetered(text(wrong), false)), PARSE_FAILED, "{wrong}");
        }
        for wrong in [
            "type A { a: Int }",
            "{ ...a } fragment a on Query { ...a }",
            "{ product { name } }",
            "{ product(id: 1.5) { name } }",
            "{ product(id: 1) }",
            "{ a: product(id: 1) { name } a: product(id: 2) { name } }",
            "query ($n: Int!, $n: Int!) { products(first: $n) { nodes { id } } }",
            "{ products(first: 3000000000) { nodes { id } } }",
            "subscription { a: clientChanged(id: 1) { id } b: clientChanged(id: 2) { id } }",
        ] {
            assert_eq!(refused(documents.find_unmetered(text(wrong), false)), "GRAPHQL_VALIDATION_FAILED", "{wrong}");
        }
    }

    #[test]
    fn introspection_can_be_disabled_and_its_lists_cannot_nest_deeply() {
        let (open, closed) = (documents(&[], true).unwrap(), documents(&[], false).unwrap());
        for query in
            ["{ __schema { types { name } } }", "{ ...f } fragment f on Query { __type(name: \"Client\") { name } }"]
        {
            open.find_unmetered(text(query), false).unwrap();
            assert_eq!(refused(closed.find_unmetered(text(query), true)), "INTROSPECTION_DISABLED");
        }
        closed.find_unmetered(text("{ __typename }"), false).unwrap();
        let nested =
            "{ __schema { types { fields { type { fields { type { fields { type { fields { name } } } } } } } } } }";
        assert_eq!(refused(open.find_unmetered(text(nested), false)), "MAX_DEPTH_LIMIT");
    }

    #[test]
    fn a_fragment_bomb_is_refused_quickly() {
        let documents = documents(&[], true).unwrap();
        let spread_twice = |n: usize| format!("fragment f{n} on Query {{ ...f{} ...f{} }} ", n + 1, n + 1);
        let bomb: String = (0..30).map(spread_twice).collect();
        let bomb = format!("{{ ...f0 }} {bomb} fragment f30 on Query {{ __typename }}");
        let durations = (0..10).map(|_| {
            let began = std::time::Instant::now();
            assert_eq!(refused(documents.find_unmetered(text(&bomb), false)), "MAX_SELECTIONS_LIMIT");
            began.elapsed()
        });
        // Expanded, it has 2³⁰ selections, which would take minutes. The minimum of ten runs excludes noise of the machine.
        let minimum = durations.min().unwrap();
        assert!(minimum < std::time::Duration::from_millis(5), "{minimum:?}");
    }

    #[test]
    fn only_the_documents_of_a_manifest_run() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = |name: &str, content: serde_json::Value| {
            let path = directory.path().join(name);
            std::fs::write(&path, content.to_string()).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let apollo = |body: &str| {
            let operation = serde_json::json!({ "id": "one", "name": "One", "type": "query", "body": body });
            serde_json::json!({ "format": "apollo-persisted-query-manifest", "version": 1, "operations": [operation] })
        };
        for path in [manifest("apollo", apollo(QUERY)), manifest("codegen", serde_json::json!({ "sha256:one": QUERY }))]
        {
            let documents = documents(&["--trusted-documents", &path], true).unwrap();
            for document in [
                id("one"),
                text(QUERY),
                id(&DocumentHash::of(QUERY).to_string()),
                DocumentRef { text: Some(QUERY), id: Some("one") },
            ] {
                documents.find_unmetered(document, false).unwrap();
            }
            let other = "{ products { nodes { id } } }";
            for document in
                [id("two"), text(other), text("{ __schema { types { name } } }"), text("{"), DocumentRef::default()]
            {
                assert_eq!(refused(documents.find_unmetered(document, false)), "QUERY_NOT_IN_SAFELIST", "{document:?}");
            }
            let two = DocumentRef { text: Some(other), id: Some("one") };
            assert_eq!(refused(documents.find_unmetered(two, false)), "QUERY_NOT_IN_SAFELIST", "text and id differ");
            documents.find_unmetered(text(other), true).unwrap();
            assert_eq!(
                refused(documents.find_unmetered(id(&DocumentHash::of(other).to_string()), false)),
                "QUERY_NOT_IN_SAFELIST",
                "only the explorer may run it"
            );
        }

        let message = |path: &str| format!("{:#}", documents(&["--trusted-documents", path], true).err().unwrap());
        for (path, why) in [
            (manifest("wrong", apollo("{ nothing }")), "document one is refused: type `Query` does not have"),
            (manifest("bomb", apollo(&format!("{{ {} }}", "__typename ".repeat(21)))), "more than 20 root fields"),
            (manifest("list", serde_json::json!(["a"])), "not a manifest"),
            (
                manifest("version", serde_json::json!({ "format": "other", "version": 1, "operations": [] })),
                "is not supported",
            ),
            (directory.path().join("none").to_str().unwrap().to_owned(), "none"),
        ] {
            let message = message(&path);
            assert!(message.contains("TRUSTED_DOCUMENTS") && message.contains(why), "{message}");
        }
    }
}
