//! Validated documents by the hash of their text, bounded by their size in memory.

use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::hash::DocumentHash;
use super::validation::{BYTES_PER_DOCUMENT, Document};

pub type DocumentCache = Cache<DocumentHash, Arc<Document>, MemorySize>;

#[derive(Clone)]
pub struct MemorySize;

impl Weighter<DocumentHash, Arc<Document>> for MemorySize {
    fn weight(&self, _hash: &DocumentHash, document: &Arc<Document>) -> u64 {
        document.bytes as u64
    }
}

pub fn new(max_bytes: u64) -> anyhow::Result<DocumentCache> {
    // One shard: with several, the cache silently drops a document that is larger than a shard.
    let options = OptionsBuilder::new()
        .shards(1)
        .weight_capacity(max_bytes)
        .estimated_items_capacity(max_bytes as usize / BYTES_PER_DOCUMENT)
        .build()?;
    Ok(Cache::with_options(options, MemorySize, DefaultHashBuilder::default(), DefaultLifecycle::default()))
}
