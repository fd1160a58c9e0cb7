//! Reads of the read model.

pub mod live;
pub mod sales_snapshots;

use read_model::ReadModel;

/// Whether the read model answers now.
pub async fn is_reachable(read_model: &dyn ReadModel) -> bool {
    read_model.ping().await.is_ok()
}
