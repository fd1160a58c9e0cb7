//! What a document may ask for, decided before async-graphql sees it: its own checks expand fragments without memory, and
//! a document of 2 KiB can have 2³⁰ selections that way.

use std::collections::{HashMap, HashSet};

use async_graphql::parser::types::{ExecutableDocument, Field, Selection, SelectionSet};
use async_graphql::{Name, Positioned, ServerError};

/// Selections with all fragments expanded. GraphiQL's introspection query has fewer than 400.
const MAX_SELECTIONS: usize = 2_000;
/// Selection sets inside one another, through fragments too. That query has 25.
const MAX_NESTING: usize = 32;

/// Refuses a document that is too large when its fragments are expanded.
pub fn check(document: &ExecutableDocument) -> Result<(), ServerError> {
    let mut counter = Counter { document, fragments: HashMap::new() };
    let mut selections = 0usize;
    for (_, operation) in document.operations.iter() {
        selections = selections.saturating_add(counter.measure(&operation.node.selection_set, 0)?.0);
    }
    // Those that are not used, too: they are validated, and what follows expands them.
    for name in document.fragments.keys() {
        selections = selections.max(counter.fragment(name, 0)?.0);
    }
    if selections > MAX_SELECTIONS {
        let message =
            format!("The document selects more than {MAX_SELECTIONS} fields, counting fragments where they are used.");
        return Err(ServerError::new(message, None));
    }
    let operations = document.operations.iter().map(|(_, operation)| &operation.node.selection_set);
    let fragments = document.fragments.values().map(|fragment| &fragment.node.selection_set);
    operations.chain(fragments).try_for_each(|set| check_merging(document, &set.node))
}

/// Refuses the first two fields that cannot be merged, in any selection set: async-graphql reports every pair, once an
/// argument and enclosing set, which makes gigabytes of a request of 64 KiB.
fn check_merging(document: &ExecutableDocument, set: &SelectionSet) -> Result<(), ServerError> {
    merge(document, None, set, &mut HashMap::new(), &mut HashSet::new())?;
    set.items.iter().try_for_each(|selection| match &selection.node {
        Selection::Field(field) => check_merging(document, &field.node.selection_set.node),
        Selection::InlineFragment(inline) => check_merging(document, &inline.node.selection_set.node),
        Selection::FragmentSpread(_) => Ok(()),
    })
}

/// Adds the fields of a set to those seen under the same type condition and response name.
fn merge<'a>(
    document: &'a ExecutableDocument,
    on: Option<&'a Name>,
    set: &'a SelectionSet,
    seen: &mut HashMap<(Option<&'a Name>, &'a Name), &'a Field>,
    visited: &mut HashSet<&'a Name>,
) -> Result<(), ServerError> {
    for selection in &set.items {
        match &selection.node {
            Selection::Field(Positioned { node: field, pos }) => {
                let name = &field.response_key().node;
                let first = *seen.entry((on, name)).or_insert(field);
                let mergeable = first.name.node == field.name.node
                    && first.arguments.len() == field.arguments.len()
                    && first.arguments.iter().all(|(name, value)| {
                        field.get_argument(&name.node).is_some_and(|other| other.node == value.node)
                    });
                if !mergeable {
                    let message =
                        format!("Fields \"{name}\" differ in field or arguments; give them different aliases.");
                    return Err(ServerError::new(message, Some(*pos)));
                }
            }
            Selection::InlineFragment(inline) => {
                let on = inline.node.type_condition.as_ref().map(|condition| &condition.node.on.node);
                merge(document, on, &inline.node.selection_set.node, seen, visited)?;
            }
            Selection::FragmentSpread(spread) => {
                let name = &spread.node.fragment_name.node;
                if let (Some(fragment), true) = (document.fragments.get(name), visited.insert(name)) {
                    let on = Some(&fragment.node.type_condition.node.on.node);
                    merge(document, on, &fragment.node.selection_set.node, seen, visited)?;
                }
            }
        }
    }
    Ok(())
}

struct Counter<'a> {
    document: &'a ExecutableDocument,
    /// The size and the nesting of each fragment, once it is known; `None` while it is being counted.
    fragments: HashMap<&'a Name, Option<(usize, usize)>>,
}

impl<'a> Counter<'a> {
    /// How many selections there are in a set, and how deep they go. Saturates.
    fn measure(&mut self, set: &'a Positioned<SelectionSet>, depth: usize) -> Result<(usize, usize), ServerError> {
        let too_deep = || {
            let message = format!("The document nests deeper than {MAX_NESTING} levels.");
            ServerError::new(message, Some(set.pos))
        };
        if depth > MAX_NESTING {
            return Err(too_deep());
        }
        let (mut selections, mut nesting) = (0usize, 0);
        for selection in &set.node.items {
            let inner = match &selection.node {
                Selection::Field(field) => self.measure(&field.node.selection_set, depth + 1)?,
                Selection::InlineFragment(inline) => self.measure(&inline.node.selection_set, depth + 1)?,
                Selection::FragmentSpread(spread) => self.fragment(&spread.node.fragment_name.node, depth + 1)?,
            };
            selections = selections.saturating_add(1).saturating_add(inner.0);
            nesting = nesting.max(inner.1 + 1);
        }
        if depth + nesting > MAX_NESTING + 1 { Err(too_deep()) } else { Ok((selections, nesting)) }
    }

    fn fragment(&mut self, name: &'a Name, depth: usize) -> Result<(usize, usize), ServerError> {
        match self.fragments.get(name) {
            Some(Some(known)) => return Ok(*known),
            Some(None) => return Err(ServerError::new(format!("The fragment {name:?} contains itself."), None)),
            None => {}
        }
        // An unknown fragment is for the validation to report.
        let Some(fragment) = self.document.fragments.get(name) else { return Ok((0, 0)) };
        self.fragments.insert(name, None);
        let known = self.measure(&fragment.node.selection_set, depth)?;
        self.fragments.insert(name, Some(known));
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_graphql::parser::parse_query;

    fn refused(query: &str) -> Option<String> {
        check(&parse_query(query).unwrap()).err().map(|error| error.message)
    }

    #[test]
    fn fragments_count_where_they_are_used_and_cost_nothing_to_count() {
        let bomb: String =
            (0..30).map(|n| format!("fragment f{n} on Query {{ ...f{} ...f{} }} ", n + 1, n + 1)).collect();
        assert!(bomb.len() < 2_048);
        let bomb = format!("{{ ...f0 }} {bomb} fragment f30 on Query {{ __typename }}");
        assert!(refused(&bomb).is_some());
        assert_eq!(refused("{ ...a ...a } fragment a on Query { __typename b: __typename }"), None);
        let wide = |n: usize| format!("{{ {} }}", (0..n).map(|n| format!("a{n}: __typename ")).collect::<String>());
        assert_eq!(refused(&wide(2_000)), None);
        assert!(refused(&wide(2_001)).unwrap().contains("more than 2000"));
    }

    #[test]
    fn the_first_conflict_ends_it_wherever_it_is() {
        let conflicts = "a: x a: y";
        for query in [
            format!("{{ x({}) x }}", "a: 1 ".repeat(300)),
            format!("{{ {} {conflicts} {} }}", "... { ".repeat(20), "}".repeat(20)),
            format!("{{ x }} fragment unused on Query {{ ...f }} fragment f on Query {{ {conflicts} }}"),
            "{ a: x(y: 1) ...f } fragment f on Query { b { a: x(y: 1) a: x(y: 2) } }".to_owned(),
        ] {
            assert!(refused(&query).unwrap().contains("different aliases"), "{query}");
        }
        assert_eq!(refused("{ x(a: 1) x(a: 1) ... on A { b: x } ... on B { b: y } }"), None);
    }

    #[test]
    fn nesting_is_bounded_through_fragments_too() {
        let nested = |n: usize| format!("{}{}", "{ a ".repeat(n), "}".repeat(n));
        assert_eq!(refused(&nested(32)), None);
        assert!(refused(&nested(34)).unwrap().contains("deeper than 32"));
        let unused: String = (0..1_900).map(|n| format!("fragment f{n} on Q {{ ...f{} }} ", n + 1)).collect();
        assert!(refused(&format!("{{ a }} {unused}")).unwrap().contains("deeper than 32"));
        // Known from a shallow use, then used deep down.
        let fragment = format!("fragment f on Query {}", nested(20));
        let used = format!("{{ ...f b {} }} {fragment}", nested(20).replacen("{ a }", "{ ...f }", 1));
        assert!(refused(&used).unwrap().contains("deeper than 32"), "{used}");
        assert!(
            refused("{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }").unwrap().contains("itself")
        );
    }
}
