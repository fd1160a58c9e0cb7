use super::validation::{MAX_ERRORS, PARSE_FAILED};
use super::*;
use crate::edge::quota::QuotaKey;
use crate::edge::rate_limits::RateLimits;
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
    for document in [text(QUERY), id(&hash), text("{ nothing }"), text("{"), text("{ __schema { types { name } } }")] {
        let refusal = documents.find_metered(document, Access::Anonymous, &meter).err().unwrap();
        assert!(matches!(refusal, Refusal::NoToken), "{document:?}: {refusal:?}");
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
    let spreads =
        format!("{{ product(id: 1) {{ {} }} }} fragment f on Product {{ {} }}", "...f ".repeat(20), "id ".repeat(20));
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
fn an_unknown_field_is_the_only_error_that_it_causes() {
    let documents = documents(&[], true).unwrap();
    let messages = |document: &str| -> Vec<String> {
        let errors = documents.find_unmetered(text(document), false).err().unwrap();
        errors.into_iter().map(|error| error.message).collect()
    };
    assert_eq!(messages("{ product(id: 1) { nothing } }"), ["type `Product` does not have a field `nothing`"]);
    assert!(messages("{ product(id: 1) }")[0].contains("must have a subselection set"));
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
    // On an idle machine it takes 1 ms. Expanded, it would take days.
    assert!(minimum < std::time::Duration::from_millis(50), "{minimum:?}");
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
    for path in [manifest("apollo", apollo(QUERY)), manifest("codegen", serde_json::json!({ "sha256:one": QUERY }))] {
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
        ("/dev/zero".to_owned(), "neither a file nor a pipe"),
    ] {
        let message = message(&path);
        assert!(message.contains("TRUSTED_DOCUMENTS") && message.contains(why), "{message}");
    }
}
