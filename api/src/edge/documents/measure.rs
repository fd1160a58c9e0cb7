//! Sizes of documents. The text is measured before it is parsed, and the parsed document before it is validated: validation expands
//! each fragment wherever it is used, so 2 KiB of text could have 2³⁰ selections.

use std::collections::HashMap;

use apollo_compiler::ast::{Definition, Directive, Document, FragmentDefinition, OperationType, Selection};
use apollo_compiler::{Name, Node};
use apollo_parser::{Lexer, TokenKind};
use async_graphql::ServerError;

use super::limits::LimitSettings;
use super::position::Positions;
use crate::edge::refusal;

/// Introspection nests deeper than other queries. GraphiQL's query nests 15 fields.
const MAX_INTROSPECTION_DEPTH: usize = 20;

impl LimitSettings {
    /// Refuses a text that has too many tokens or nests too deeply to be parsed. Returns the number of tokens.
    pub fn check_text(&self, text: &str) -> Result<usize, ServerError> {
        let (mut tokens, mut nesting) = (0, 0usize);
        for token in Lexer::new(text) {
            // Only the first error is reported: there can be one per character.
            let token = token.map_err(|error| {
                let position = Positions::new(text).at(error.index());
                refusal::error("GRAPHQL_PARSE_FAILED", format!("Syntax error: {}.", error.message()), Some(position))
            })?;
            match token.kind() {
                TokenKind::Whitespace | TokenKind::Comment | TokenKind::Comma | TokenKind::Eof => continue,
                TokenKind::LCurly | TokenKind::LParen | TokenKind::LBracket => nesting += 1,
                TokenKind::RCurly | TokenKind::RParen | TokenKind::RBracket => nesting = nesting.saturating_sub(1),
                TokenKind::Name => self.bound_name(token.data())?,
                _ => {}
            }
            tokens += 1;
            self.bound("TOKENS", "tokens", tokens, self.max_tokens)?;
            self.bound_nesting(nesting)?;
        }
        Ok(tokens)
    }

    /// Refuses a document that is too large when its fragments are expanded. Returns its size.
    pub fn check_document(&self, document: &Document) -> Result<DocumentSize, ServerError> {
        let fragments = document.definitions.iter().filter_map(Definition::as_fragment_definition);
        let fragments: HashMap<_, _> = fragments.map(|fragment| (&fragment.name, (&**fragment, None))).collect();
        let mut measure = Measure { limits: self, fragments };
        let mut selections = 0usize;
        let mut min_fields = None;
        for operation in document.definitions.iter().filter_map(Definition::as_operation_definition) {
            let mut size = measure.selections(&operation.selection_set, 0)?;
            let of_variables = operation.variables.iter().map(|variable| variable.directives.len());
            size.directives = size.directives.saturating_add(operation.directives.len() + of_variables.sum::<usize>());
            selections = selections.saturating_add(size.selections);
            min_fields = Some(min_fields.unwrap_or(usize::MAX).min(size.all_fields));
            let max_fields = match operation.operation_type {
                OperationType::Mutation => self.max_mutation_fields,
                _ => self.max_root_fields,
            };
            self.bound("SELECTIONS", "selections", selections, self.max_selections)?;
            self.bound("ROOT_FIELDS", "root fields", size.fields, max_fields)?;
            self.bound("ALIASES", "aliases", size.aliases, self.max_aliases)?;
            self.bound("DIRECTIVES", "directives", size.directives, self.max_directives)?;
            self.bound("DEPTH", "levels of nested fields", size.depth, self.max_depth)?;
            let introspection = "levels of nested fields for introspection";
            self.bound("DEPTH", introspection, size.introspection_depth, MAX_INTROSPECTION_DEPTH)?;
        }
        // Unused fragments are validated too.
        let names: Vec<_> = measure.fragments.keys().copied().collect();
        for name in names {
            let size = measure.fragment(name, 0)?;
            self.bound("SELECTIONS", "selections", size.selections, self.max_selections)?;
            selections = selections.max(size.selections);
        }
        Ok(DocumentSize { selections, min_fields: min_fields.unwrap_or(0) })
    }

    fn bound_name(&self, name: &str) -> Result<(), ServerError> {
        if name.len() > self.max_name_length {
            let message = format!("The document has a name of more than {} bytes.", self.max_name_length);
            return Err(refusal::error("MAX_NAME_LENGTH_LIMIT", message, None));
        }
        Ok(())
    }

    fn bound_nesting(&self, levels: usize) -> Result<(), ServerError> {
        self.bound("NESTING", "levels of nesting", levels, self.max_nesting)
    }

    fn bound(&self, limit: &str, what: &str, value: usize, max: usize) -> Result<(), ServerError> {
        if value <= max {
            return Ok(());
        }
        Err(refusal::error(&format!("MAX_{limit}_LIMIT"), format!("The document has more than {max} {what}."), None))
    }
}

/// Sizes of a document after expanding fragments.
pub struct DocumentSize {
    pub selections: usize,
    /// Fields of its smallest operation. Each costs at least 1.
    pub min_fields: usize,
}

/// Sizes of a selection set after expanding fragments. All saturate.
#[derive(Clone, Copy, Default)]
struct Size {
    selections: usize,
    aliases: usize,
    directives: usize,
    /// Fields at the top level.
    fields: usize,
    all_fields: usize,
    depth: usize,
    introspection_depth: usize,
    /// Depth of nested selection sets, including those of fragments.
    nesting: usize,
}

impl Size {
    /// Adds one selection with the given content.
    fn add(&mut self, inner: Size, directives: &[Node<Directive>]) {
        self.selections = self.selections.saturating_add(inner.selections).saturating_add(1);
        self.aliases = self.aliases.saturating_add(inner.aliases);
        self.directives = self.directives.saturating_add(inner.directives).saturating_add(directives.len());
        self.fields = self.fields.saturating_add(inner.fields);
        self.all_fields = self.all_fields.saturating_add(inner.all_fields);
        self.depth = self.depth.max(inner.depth);
        self.introspection_depth = self.introspection_depth.max(inner.introspection_depth);
        self.nesting = self.nesting.max(inner.nesting + 1);
    }
}

struct Measure<'a> {
    limits: &'a LimitSettings,
    /// By name, with the size once it is measured.
    fragments: HashMap<&'a Name, (&'a FragmentDefinition, Option<Size>)>,
}

impl<'a> Measure<'a> {
    fn selections(&mut self, set: &'a [Selection], level: usize) -> Result<Size, ServerError> {
        self.limits.bound_nesting(level)?;
        let mut size = Size::default();
        for selection in set {
            match selection {
                Selection::Field(field) => {
                    let mut inner = self.selections(&field.selection_set, level + 1)?;
                    inner.aliases = inner.aliases.saturating_add(field.alias.is_some().into());
                    inner.fields = 1;
                    inner.all_fields = inner.all_fields.saturating_add(1);
                    match field.name.as_str() {
                        "__schema" | "__type" => {
                            inner.introspection_depth = inner.depth + 1;
                            inner.depth = 1;
                        }
                        _ => inner.depth += 1,
                    }
                    size.add(inner, &field.directives);
                }
                Selection::InlineFragment(inline) => {
                    size.add(self.selections(&inline.selection_set, level + 1)?, &inline.directives);
                }
                Selection::FragmentSpread(spread) => {
                    size.add(self.fragment(&spread.fragment_name, level + 1)?, &spread.directives);
                }
            }
        }
        self.limits.bound_nesting(level + size.nesting)?;
        Ok(size)
    }

    fn fragment(&mut self, name: &Name, level: usize) -> Result<Size, ServerError> {
        // Validation reports an unknown fragment.
        let Some(&(fragment, measured)) = self.fragments.get(name) else { return Ok(Size::default()) };
        if let Some(size) = measured {
            return Ok(size);
        }
        // Validation reports a fragment that contains itself. Inside itself it counts as empty.
        self.fragments.insert(&fragment.name, (fragment, Some(Size::default())));
        let size = self.selections(&fragment.selection_set, level)?;
        self.fragments.insert(&fragment.name, (fragment, Some(size)));
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        limits: LimitSettings,
    }

    /// The error code for this document.
    fn refused(document: &str) -> Option<String> {
        let limits = Cli::parse_from(["test"]).limits;
        let checked = limits.check_text(document).and_then(|_| {
            limits.check_document(&Document::parse(document, "document").unwrap_or_else(|parsed| parsed.partial))
        });
        checked.err().map(|error| error.extensions.unwrap().get("code").unwrap().to_string().replace('"', ""))
    }

    fn repeat(n: usize, part: impl Fn(usize) -> String) -> String {
        (0..n).map(part).collect()
    }

    #[test]
    fn each_limit_accepts_its_maximum_and_refuses_more() {
        let fields = |n| format!("{{ {} }}", repeat(n, |_| "a ".into()));
        let deep = |n: usize| format!("{}{}", "{ a ".repeat(n), "}".repeat(n));
        let within = |field: &str, document: String| document.replacen("{ a ", &format!("{{ {field} "), 1);
        let aliases = |n| format!("{{ x {{ {} }} }}", repeat(n, |n| format!("a{n}: a ")));
        let directives =
            |n| format!("{{ {} }}", fields(1).replace("a", &format!("a {}", "@skip(if: false) ".repeat(n))));
        let lists = |n: usize| format!("{{ a(b: {}{}) }}", "[".repeat(n), "]".repeat(n));
        let spreads = |n| format!("{{ x {{ {} }} }} fragment f on Query {{ a a a a a a a a a }}", "...f ".repeat(n));
        let name = |n| format!("{{ {}: a }}", "a".repeat(n));
        let cases: [(&str, String, String); 13] = [
            ("NAME_LENGTH", name(100), name(101)),
            (
                "TOKENS",
                format!("{{ x(a: \"{}\") }}", "{ ".repeat(5_000)),
                format!("{{ x(a: [{}]) }}", "1,".repeat(1_992)),
            ),
            ("NESTING", lists(30), lists(31)),
            ("NESTING", deep(0) + &within("__schema", deep(20)), deep(33)),
            ("SELECTIONS", spreads(199), spreads(200)),
            ("ROOT_FIELDS", fields(20), fields(21)),
            ("ROOT_FIELDS", format!("mutation {}", fields(10)), format!("mutation {}", fields(11))),
            ("ALIASES", aliases(30), aliases(31)),
            ("DIRECTIVES", directives(20), directives(21)),
            ("DEPTH", deep(10), deep(11)),
            ("DEPTH", within("__schema", deep(20)), within("__schema", deep(21))),
            ("DEPTH", "query ($a: Int @a) { a }".into(), format!("{{ ...f }} fragment f on Query {}", deep(11))),
            ("TOKENS", format!("{{ a {} }}", "# comment\n , ".repeat(4_000)), fields(2_000)),
        ];
        for (limit, good, bad) in cases {
            assert_eq!(refused(&good), None, "{limit}: {good}");
            assert_eq!(refused(&bad), Some(format!("MAX_{limit}_LIMIT")), "{bad}");
        }
    }

    #[test]
    fn fragments_are_expanded_in_linear_time() {
        let spread_twice = |n: usize| format!("fragment f{n} on Query {{ ...f{} ...f{} }} ", n + 1, n + 1);
        let bomb = repeat(30, spread_twice) + "fragment f30 on Query { __typename }";
        assert!(bomb.len() < 2_048);
        for bomb in [format!("{{ ...f0 }} {bomb}"), format!("{{ a }} {bomb}")] {
            assert_eq!(refused(&bomb), Some("MAX_SELECTIONS_LIMIT".into()));
        }
        let chain = repeat(240, |n| format!("fragment f{n} on Q {{ ...f{} }} ", n + 1));
        assert_eq!(refused(&format!("{{ a }} {chain}")), Some("MAX_NESTING_LIMIT".into()));
        // Measured at a shallow use, then used deeper.
        let nested = |inner: &str| format!("{}{inner}{}", "{ a ".repeat(9), "}".repeat(9));
        let twice = format!("{{ ...f b {} }} fragment f on Query {}", nested("{ ...f }"), nested(""));
        assert_eq!(refused(&twice), Some("MAX_DEPTH_LIMIT".into()));
        // Validation reports cycles.
        assert_eq!(refused("{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }"), None);
    }
}
