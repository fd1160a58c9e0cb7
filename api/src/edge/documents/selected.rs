//! One operation of a document, for its execution.

use async_graphql::Name;
use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, Selection};

/// The operation with this name, or the only one, and the fragments that it uses. Execution takes a copy of its document, which
/// must not cost more than the operation.
///
/// # Panics
/// When the document has no such operation.
pub fn select(document: &ExecutableDocument, name: Option<&str>) -> ExecutableDocument {
    let (operations, name) = match (&document.operations, name) {
        (DocumentOperations::Multiple(operations), Some(name)) if operations.len() > 1 => (operations, name),
        // Its fragments are all used: otherwise the document would not be valid.
        _ => return document.clone(),
    };
    let (name, operation) = operations.get_key_value(name).expect("the operation was found in the document");
    let mut selected = ExecutableDocument {
        operations: DocumentOperations::Multiple([(name.clone(), operation.clone())].into()),
        fragments: Default::default(),
    };
    let mut selection_sets = vec![&operation.node.selection_set.node];
    while let Some(set) = selection_sets.pop() {
        for selection in &set.items {
            match &selection.node {
                Selection::Field(field) => selection_sets.push(&field.node.selection_set.node),
                Selection::InlineFragment(inline) => selection_sets.push(&inline.node.selection_set.node),
                Selection::FragmentSpread(spread) => {
                    let name: &Name = &spread.node.fragment_name.node;
                    if let Some(fragment) =
                        document.fragments.get(name).filter(|_| !selected.fragments.contains_key(name))
                    {
                        selected.fragments.insert(name.clone(), fragment.clone());
                        selection_sets.push(&fragment.node.selection_set.node);
                    }
                }
            }
        }
    }
    selected
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;

    use super::*;

    #[test]
    fn an_operation_is_executed_with_the_fragments_that_it_uses() {
        let text = "query A { a { ...X } } query B { ... { ...Z } b } \
                    fragment X on T { x { ...Y } } fragment Y on T { y ...Z } fragment Z on T { z }";
        let document = parse_query(text).unwrap();
        let names = |name| {
            let selected = select(&document, Some(name));
            let mut names: Vec<_> =
                selected.operations.iter().filter_map(|(name, _)| name).map(ToString::to_string).collect();
            let mut fragments: Vec<_> = selected.fragments.keys().map(ToString::to_string).collect();
            fragments.sort();
            names.extend(fragments);
            names.join(" ")
        };
        assert_eq!(names("A"), "A X Y Z");
        assert_eq!(names("B"), "B Z");
    }
}
