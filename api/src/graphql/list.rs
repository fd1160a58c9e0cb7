//! Lists of objects that differ in plain values alone, as dashboards have them. There may be a thousand, and to resolve each
//! field of each takes most of the answer's time: one is resolved, and each other is a copy of it with its own values. Where
//! several ask for the same of a list that they share, it is written once.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use async_graphql::parser::types::{Field, Selection, SelectionSet};
use async_graphql::registry::Registry;
use async_graphql::{ContextSelectionSet, OutputType, Positioned, ServerError, ServerResult, Value};
use axum::body::Bytes;

/// Bytes that are kept of what was written, at most: names that a caller gives to fields may be long.
const KEPT: usize = 256 * 1024;

pub trait Alike: OutputType + Sized {
    /// The fields that are values, and those of what they are in. Where another is selected, each object is resolved by itself.
    const PLAIN: &[&str];

    /// One of which each value is like nothing else in it.
    fn sample(&self) -> Self;

    /// All in which one may differ from another, in the same order for each.
    fn values(&self) -> Vec<Value>;
}

pub struct List<T> {
    items: Vec<T>,
    /// What an object was like when the list was written last, and as what: both in JSON, where the order of fields counts.
    written: Mutex<Option<(Vec<u8>, Bytes)>>,
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> List<T> {
        List { items, written: Mutex::default() }
    }
}

impl<T: Alike> List<T> {
    fn copies(&self, resolved: &Value, sample: &[Value]) -> Value {
        let copy = |item: &T| {
            let mut copy = resolved.clone();
            replace(&mut copy, sample, &item.values());
            copy
        };
        Value::List(self.items.iter().map(copy).collect())
    }

    fn written(&self, resolved: &Value, sample: &[Value]) -> serde_json::Result<Bytes> {
        let last = || self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let like = serde_json::to_vec(resolved)?;
        if let Some((_, written)) = last().as_ref().filter(|(other, _)| *other == like) {
            return Ok(written.clone());
        }
        let written = Bytes::from(serde_json::to_vec(&self.copies(resolved, sample))?);
        if written.len() <= KEPT {
            *last() = Some((like, written.clone()));
        }
        Ok(written)
    }
}

impl<T: Alike> OutputType for List<T> {
    fn type_name() -> Cow<'static, str> {
        Vec::<T>::type_name()
    }

    fn qualified_type_name() -> String {
        Vec::<T>::qualified_type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        Vec::<T>::create_type_info(registry)
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, field: &Positioned<Field>) -> ServerResult<Value> {
        let Some(first) = self.items.first() else { return Ok(Value::List(Vec::new())) };
        if !selects_only(ctx, &ctx.item.node, T::PLAIN) {
            return self.items.resolve(ctx, field).await;
        }
        let sample = first.sample();
        let (resolved, sample) = (sample.resolve(ctx, field).await?, sample.values());
        // What is selected twice is merged, and what is written cannot be.
        if times_selected(ctx, &field.node.name.node) > 1 {
            return Ok(self.copies(&resolved, &sample));
        }
        // Bytes are JSON to whoever writes an answer.
        let written = self.written(&resolved, &sample).map(Value::Binary);
        written.map_err(|error| ServerError::new(error.to_string(), Some(field.pos)))
    }
}

/// Puts a value in the place of each that is in an object, however deep.
fn replace(object: &mut Value, sample: &[Value], values: &[Value]) {
    match object {
        Value::Object(fields) => fields.values_mut().for_each(|value| replace(value, sample, values)),
        value => {
            if let Some(index) = sample.iter().position(|other| other == value) {
                *value = values[index].clone();
            }
        }
    }
}

/// Whether all fields are of these, however deep.
fn selects_only(ctx: &ContextSelectionSet<'_>, set: &SelectionSet, names: &[&str]) -> bool {
    set.items.iter().all(|selection| match &selection.node {
        Selection::Field(field) => {
            let (name, set) = (field.node.name.node.as_str(), &field.node.selection_set.node);
            names.contains(&name) && selects_only(ctx, set, names)
        }
        Selection::InlineFragment(fragment) => selects_only(ctx, &fragment.node.selection_set.node, names),
        Selection::FragmentSpread(spread) => {
            let fragment = ctx.query_env.fragments.get(&spread.node.fragment_name.node);
            fragment.is_some_and(|fragment| selects_only(ctx, &fragment.node.selection_set.node, names))
        }
    })
}

/// How often a field of this name is in the document.
fn times_selected(ctx: &ContextSelectionSet<'_>, name: &str) -> usize {
    fn within(set: &Positioned<SelectionSet>, name: &str) -> usize {
        let times = |selection: &Positioned<Selection>| match &selection.node {
            Selection::Field(field) => {
                usize::from(field.node.name.node == name) + within(&field.node.selection_set, name)
            }
            Selection::InlineFragment(fragment) => within(&fragment.node.selection_set, name),
            Selection::FragmentSpread(_) => 0,
        };
        set.node.items.iter().map(times).sum()
    }
    let fragments = ctx.query_env.fragments.values().map(|fragment| &fragment.node.selection_set);
    fragments.chain([&ctx.query_env.operation.node.selection_set]).map(|set| within(set, name)).sum()
}
