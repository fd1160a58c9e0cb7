//! Documents, parsed, checked and validated once. They are kept by the SHA-256 of their text, which is also how
//! [automatic persisted queries](https://www.apollographql.com/docs/apollo-server/performance/apq) name them. Given a
//! manifest of trusted documents, only those run.

pub mod limits;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use apollo_compiler::executable::{ExecutableDocument, Operation};
use apollo_compiler::introspection::check_max_depth;
use apollo_compiler::validation::{DiagnosticList, Valid};
use apollo_compiler::{Schema, ast};
use async_graphql::parser::parse_query;
use async_graphql::parser::types::ExecutableDocument as ParsedDocument;
use async_graphql::{Pos, ServerError};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::edge::documents::limits::LimitSettings;
use crate::graphql::error::{Refused, refused};

/// Validation errors told of one document.
const MAX_ERRORS: usize = 10;
/// Longest message of such an error, in characters: it has names from the document.
const MAX_MESSAGE: usize = 300;
/// Memory that a document takes for each token, and besides: the most that was measured, rounded up.
const BYTES_PER_TOKEN: usize = 400;
const BYTES_PER_DOCUMENT: usize = 4096;

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Documents")]
pub struct DocumentSettings {
    /// Memory for documents that were parsed and validated, in bytes
    #[arg(long, env, default_value_t = 32 * 1024 * 1024)]
    pub document_cache_bytes: u64,
    /// Whether clients may name a document by its hash once it was sent (automatic persisted queries)
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub persisted_queries: bool,
    /// Manifest of the documents that may run, as Apollo's or GraphQL Code Generator's tools write it; any may if unset
    #[arg(long, env)]
    pub trusted_documents: Option<PathBuf>,
}

/// A document that may run.
pub struct Document {
    /// With the types of its fields.
    pub checked: Valid<ExecutableDocument>,
    /// The same, as it is executed.
    pub parsed: ParsedDocument,
    /// About what it takes in memory.
    bytes: usize,
}

impl Document {
    /// The operation of this name, or the only one.
    pub fn operation(&self, name: Option<&str>) -> Result<&Operation, ServerError> {
        let operation = self.checked.operations.get(name);
        operation.map(|operation| &**operation).map_err(|_| {
            let message = match name {
                Some(name) => format!("The document has no operation named {name:?}."),
                None => "The document has several operations: `operationName` must say which one to run.".into(),
            };
            refused("OPERATION_RESOLUTION_FAILURE", message, None)
        })
    }
}

/// How a request names its document: by its text, by the hash of it, or both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named<'a> {
    pub text: Option<&'a str>,
    pub id: Option<&'a str>,
}

pub struct Documents {
    schema: Valid<Schema>,
    limits: LimitSettings,
    introspection: bool,
    persisted_queries: bool,
    cache: Cache<Hash, Arc<Document>, Weight>,
    /// The only ones that run, if there is a manifest.
    trusted: Option<HashMap<String, Arc<Document>>>,
    /// Those that run besides.
    known: HashMap<String, Arc<Document>>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Hash, Arc<Document>> for Weight {
    fn weight(&self, _hash: &Hash, document: &Arc<Document>) -> u64 {
        document.bytes as u64
    }
}

impl Documents {
    /// `schema` in the schema definition language.
    ///
    /// # Errors
    /// When the manifest cannot be read, or names a document that may not run.
    pub fn new(
        schema: &str,
        limits: LimitSettings,
        settings: &DocumentSettings,
        introspection: bool,
    ) -> anyhow::Result<Documents> {
        let schema = Schema::parse_and_validate(schema, "schema.graphql")
            .map_err(|error| anyhow!("the schema is not valid: {}", error.errors))?;
        // Divided into shards, the cache would refuse a document that is larger than its shard, and forget that silently.
        let options = OptionsBuilder::new()
            .shards(1)
            .weight_capacity(settings.document_cache_bytes)
            .estimated_items_capacity(settings.document_cache_bytes as usize / BYTES_PER_DOCUMENT)
            .build()?;
        let mut documents = Documents {
            schema,
            limits,
            introspection,
            persisted_queries: settings.persisted_queries,
            cache: Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default()),
            trusted: None,
            known: HashMap::new(),
        };
        if let Some(path) = &settings.trusted_documents {
            let trusted = std::fs::read(path).map_err(Into::into).and_then(|manifest| documents.load(&manifest));
            documents.trusted = Some(trusted.with_context(|| format!("TRUSTED_DOCUMENTS ({})", path.display()))?);
        }
        Ok(documents)
    }

    /// Lets the documents of this manifest run in any case, for those who name them by their ids.
    ///
    /// # Errors
    /// When one of them may not run.
    pub fn know(&mut self, manifest: &[u8]) -> anyhow::Result<()> {
        self.known = self.load(manifest)?;
        Ok(())
    }

    pub fn schema(&self) -> &Valid<Schema> {
        &self.schema
    }

    /// Finds what a request names. `may_explore` lets it send what is not trusted. Calls `before_checking` before a text is
    /// parsed that is not known yet.
    pub fn find(
        &self,
        named: Named,
        may_explore: bool,
        before_checking: impl FnOnce() -> Result<(), Refused>,
    ) -> Result<Arc<Document>, Refused> {
        let of_text = named.text.map(hash);
        let id = named.id.map(without_prefix);
        if let (None, Some(document)) = (named.text, id.and_then(|id| self.known.get(id))) {
            return Ok(document.clone());
        }
        if let Some(trusted) = &self.trusted {
            let by_text = of_text.as_ref().map(|hash| trusted.get(&hexadecimal(hash)));
            let by_id = id.map(|id| trusted.get(id));
            match (by_text, by_id) {
                (Some(Some(document)), None) | (None, Some(Some(document))) => return Ok(document.clone()),
                (Some(Some(document)), Some(Some(same))) if Arc::ptr_eq(document, same) => return Ok(same.clone()),
                _ if may_explore => {}
                _ => {
                    let message = "Only the documents that this service was given may run. This is none of them.";
                    return Err(refused("QUERY_NOT_IN_SAFELIST", message, None).into());
                }
            }
        }
        if id.is_some() && !self.persisted_queries {
            return Err(refused("PERSISTED_QUERY_NOT_SUPPORTED", "PersistedQueryNotSupported", None).into());
        }
        match (named.text, of_text, id) {
            (Some(_), Some(of_text), Some(id)) if hexadecimal(&of_text) != id => {
                let message = "The SHA-256 of the query is not the one that was sent with it.";
                Err(refused("BAD_REQUEST", message, None).into())
            }
            (Some(text), Some(of_text), _) => match self.cache.get(&of_text) {
                Some(document) => Ok(document),
                None => {
                    before_checking()?;
                    let document = Arc::new(self.check(text).map_err(Refused::Request)?);
                    self.cache.insert(of_text, document.clone());
                    Ok(document)
                }
            },
            // What clients expect to read then: they send the text as well.
            _ => id
                .and_then(|id| self.cache.get(&from_hexadecimal(id)?))
                .ok_or_else(|| Refused::from(refused("PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound", None))),
        }
    }

    /// Parses, measures and validates a document.
    fn check(&self, text: &str) -> Result<Document, Vec<ServerError>> {
        let tokens = self.limits.check_text(text).map_err(|error| vec![error])?;
        let parsed = ast::Document::parse(text, "document").map_err(|error| errors(PARSE_FAILED, &error.errors))?;
        self.limits.check_document(&parsed).map_err(|error| vec![error])?;
        let checked = parsed
            .to_executable_validate(&self.schema)
            .map_err(|error| errors("GRAPHQL_VALIDATION_FAILED", &error.errors))?;
        self.check_introspection(&checked)?;
        let parsed = parse_query(text)
            .map_err(|error| vec![refused(PARSE_FAILED, error.to_string(), error.positions().next())])?;
        Ok(Document { checked, parsed, bytes: text.len() + tokens * BYTES_PER_TOKEN + BYTES_PER_DOCUMENT })
    }

    fn check_introspection(&self, document: &Valid<ExecutableDocument>) -> Result<(), Vec<ServerError>> {
        for operation in document.operations.iter() {
            let mut fields = operation.root_fields(document);
            if !self.introspection && fields.any(|field| matches!(field.name.as_str(), "__schema" | "__type")) {
                let message = "Introspection is switched off here. The schema is published as schema.graphql.";
                return Err(vec![refused("INTROSPECTION_DISABLED", message, None)]);
            }
            check_max_depth(document, operation).map_err(|error| {
                vec![refused(
                    "MAX_DEPTH_LIMIT",
                    error.message().to_string() + ": lists inside lists inside lists.",
                    None,
                )]
            })?;
        }
        Ok(())
    }

    /// The documents of a manifest, by their ids and by the hashes of their texts.
    fn load(&self, manifest: &[u8]) -> anyhow::Result<HashMap<String, Arc<Document>>> {
        let manifest: Manifest = serde_json::from_slice(manifest)
            .context("not a manifest of Apollo's or GraphQL Code Generator's: expected JSON of their form")?;
        let documents: Vec<(String, String)> = match manifest {
            Manifest::Apollo { format, version, operations } => {
                if format != "apollo-persisted-query-manifest" || version != 1 {
                    bail!("a manifest of format {format:?}, version {version} is not known here");
                }
                operations.into_iter().map(|operation| (operation.id, operation.body)).collect()
            }
            Manifest::Codegen(documents) => documents.into_iter().collect(),
        };
        let mut loaded = HashMap::new();
        for (id, text) in documents {
            let document = self.check(&text).map_err(|errors| {
                let errors: Vec<_> = errors.into_iter().map(|error| error.message).collect();
                anyhow!("the document {id} may not run: {}", errors.join("; "))
            })?;
            let document = Arc::new(document);
            loaded.insert(hexadecimal(&hash(&text)), document.clone());
            loaded.insert(without_prefix(&id).to_owned(), document);
        }
        Ok(loaded)
    }
}

const PARSE_FAILED: &str = "GRAPHQL_PARSE_FAILED";

/// <https://github.com/graphql/graphql-over-http>: "sha256:" tells that an id is the hash of the text.
fn without_prefix(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

type Hash = [u8; 32];

fn hash(text: &str) -> Hash {
    Sha256::digest(text).into()
}

fn hexadecimal(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Only as it is written above, in lower case.
fn from_hexadecimal(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    (hexadecimal(&hash) == text).then_some(hash)
}

/// The first errors of a document, and how many more there are.
fn errors(code: &str, found: &DiagnosticList) -> Vec<ServerError> {
    let mut errors: Vec<_> = found
        .iter()
        .take(MAX_ERRORS)
        .map(|error| {
            let error = error.to_json();
            let position = error.locations.first().map(|at| Pos { line: at.line, column: at.column });
            refused(code, error.message.chars().take(MAX_MESSAGE).collect::<String>(), position)
        })
        .collect();
    if found.len() > MAX_ERRORS {
        errors.push(refused(code, format!("There are {} more errors.", found.len() - MAX_ERRORS), None));
    }
    errors
}

/// What tools write at build time.
#[derive(Deserialize)]
#[serde(untagged)]
enum Manifest {
    /// `@apollo/generate-persisted-query-manifest`
    Apollo { format: String, version: u32, operations: Vec<ManifestOperation> },
    /// `@graphql-codegen/client-preset` with `persistedDocuments`: hashes and texts.
    Codegen(HashMap<String, String>),
}

#[derive(Deserialize)]
struct ManifestOperation {
    id: String,
    body: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

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

    fn text(text: &str) -> Named<'_> {
        Named { text: Some(text), id: None }
    }

    fn id(id: &str) -> Named<'_> {
        Named { text: None, id: Some(id) }
    }

    impl Documents {
        fn find_free(&self, named: Named, may_explore: bool) -> Result<Arc<Document>, Vec<ServerError>> {
            self.find(named, may_explore, || Ok(())).map_err(Refused::errors)
        }
    }

    /// The code of the first error.
    fn refused(found: Result<Arc<Document>, Vec<ServerError>>) -> String {
        let error = found.err().expect("it may run").remove(0);
        error.extensions.unwrap().get("code").unwrap().to_string().replace('"', "")
    }

    const QUERY: &str = "{ product(id: 1) { name } }";

    #[test]
    fn a_document_is_prepared_once_and_found_by_its_hash_from_then_on() {
        let documents = documents(&[], true).unwrap();
        let of_query = hexadecimal(&hash(QUERY));
        assert_eq!(of_query.len(), 64);
        assert_eq!(refused(documents.find_free(id(&of_query), false)), "PERSISTED_QUERY_NOT_FOUND");
        let first = documents.find_free(text(QUERY), false).unwrap();
        for named in [text(QUERY), id(&of_query), id(&format!("sha256:{of_query}"))] {
            assert!(Arc::ptr_eq(&first, &documents.find_free(named, false).unwrap()));
        }
        let mismatch = Named { text: Some("{ products { nodes { id } } }"), id: Some(&of_query) };
        assert_eq!(refused(documents.find_free(mismatch, false)), "BAD_REQUEST");
        // What may not run is not kept.
        let wrong = "{ nothing }";
        assert_eq!(refused(documents.find_free(text(wrong), false)), "GRAPHQL_VALIDATION_FAILED");
        assert_eq!(refused(documents.find_free(id(&hexadecimal(&hash(wrong))), false)), "PERSISTED_QUERY_NOT_FOUND");

        let without = super::tests::documents(&["--persisted-queries", "false"], true).unwrap();
        without.find_free(text(QUERY), false).unwrap();
        assert_eq!(refused(without.find_free(id(&of_query), false)), "PERSISTED_QUERY_NOT_SUPPORTED");
    }

    #[test]
    fn the_cache_is_bounded_by_bytes() {
        let documents = documents(&["--document-cache-bytes", "200000"], true).unwrap();
        for n in 0..2_000 {
            documents.find_free(text(&format!("query Q{n} {QUERY}")), false).unwrap();
            assert!(documents.cache.weight() <= 200_000);
        }
        assert!(documents.cache.len() > 10);
    }

    #[test]
    fn errors_are_told_with_their_places_but_not_all_of_a_thousand() {
        let documents = documents(&[], true).unwrap();
        let unknown: String = (0..20).map(|n| format!(" nothing{n}")).collect();
        let errors = documents.find_free(text(&format!("{{\n{unknown} }}")), false).err().unwrap();
        assert_eq!(errors.len(), MAX_ERRORS + 1);
        assert_eq!((errors[0].locations[0].line, errors[0].locations[0].column), (2, 2));
        assert_eq!(errors[MAX_ERRORS].message, "There are 10 more errors.");
        for wrong in ["", "{", "{ }", "query { product(id: ) { id } }", "type A { a: Int } {", "\u{0}"] {
            assert_eq!(refused(documents.find_free(text(wrong), false)), PARSE_FAILED, "{wrong}");
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
            "{ product(id: 9223372036854775808) { name } }",
            "subscription { a: clientChanged(id: 1) { id } b: clientChanged(id: 2) { id } }",
        ] {
            assert_eq!(refused(documents.find_free(text(wrong), false)), "GRAPHQL_VALIDATION_FAILED", "{wrong}");
        }
    }

    #[test]
    fn the_schema_may_be_asked_for_where_that_is_switched_on_and_not_in_circles() {
        let (open, closed) = (documents(&[], true).unwrap(), documents(&[], false).unwrap());
        for query in
            ["{ __schema { types { name } } }", "{ ...f } fragment f on Query { __type(name: \"Client\") { name } }"]
        {
            open.find_free(text(query), false).unwrap();
            assert_eq!(refused(closed.find_free(text(query), true)), "INTROSPECTION_DISABLED");
        }
        closed.find_free(text("{ __typename }"), false).unwrap();
        let circle =
            "{ __schema { types { fields { type { fields { type { fields { type { fields { name } } } } } } } } } }";
        assert_eq!(refused(open.find_free(text(circle), false)), "MAX_DEPTH_LIMIT");
    }

    #[test]
    fn a_bomb_costs_little() {
        let documents = documents(&[], true).unwrap();
        let spread_twice = |n: usize| format!("fragment f{n} on Query {{ ...f{} ...f{} }} ", n + 1, n + 1);
        let bomb: String = (0..30).map(spread_twice).collect();
        let bomb = format!("{{ ...f0 }} {bomb} fragment f30 on Query {{ __typename }}");
        let took = (0..10).map(|_| {
            let began = std::time::Instant::now();
            assert_eq!(refused(documents.find_free(text(&bomb), false)), "MAX_SELECTIONS_LIMIT");
            began.elapsed()
        });
        // Expanded, it has 2³⁰ selections: minutes. The least of ten says what it takes without the machine's noise.
        let least = took.min().unwrap();
        assert!(least < std::time::Duration::from_millis(5), "{least:?}");
    }

    #[test]
    fn only_trusted_documents_run_where_there_is_a_manifest() {
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
            for named in
                [id("one"), text(QUERY), id(&hexadecimal(&hash(QUERY))), Named { text: Some(QUERY), id: Some("one") }]
            {
                documents.find_free(named, false).unwrap();
            }
            let other = "{ products { nodes { id } } }";
            for named in [id("two"), text(other), text("{ __schema { types { name } } }"), text("{"), Named::default()]
            {
                assert_eq!(refused(documents.find_free(named, false)), "QUERY_NOT_IN_SAFELIST", "{named:?}");
            }
            let two = Named { text: Some(other), id: Some("one") };
            assert_eq!(refused(documents.find_free(two, false)), "QUERY_NOT_IN_SAFELIST", "two documents are none");
            documents.find_free(text(other), true).unwrap();
            assert_eq!(
                refused(documents.find_free(id(&hexadecimal(&hash(other))), false)),
                "QUERY_NOT_IN_SAFELIST",
                "it is not cached for all"
            );
        }

        let message = |path: &str| format!("{:#}", documents(&["--trusted-documents", path], true).err().unwrap());
        for (path, why) in [
            (manifest("wrong", apollo("{ nothing }")), "the document one may not run: type `Query` does not have"),
            (
                manifest("bomb", apollo(&format!("{{ {} }}", "__typename ".repeat(21)))),
                "more than 20 fields at its root",
            ),
            (manifest("list", serde_json::json!(["a"])), "not a manifest"),
            (
                manifest("version", serde_json::json!({ "format": "other", "version": 1, "operations": [] })),
                "not known here",
            ),
            (directory.path().join("none").to_str().unwrap().to_owned(), "none"),
        ] {
            let message = message(&path);
            assert!(message.contains("TRUSTED_DOCUMENTS") && message.contains(why), "{message}");
        }
    }
}
