//! Reads the event log: a rebuild needs every event of it.

use std::fmt;
use std::ops::ControlFlow;

use entity::Event;
use serde::Serialize;
use uuid::Uuid;

use super::Verifier;
use crate::replay::rows_after;

/// An event of the log that cannot be read. A rebuild fails at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreadableEvent {
    pub event: Uuid,
    pub unreadable: String,
}

impl fmt::Display for UnreadableEvent {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "event {}  unreadable: {}", self.event, self.unreadable)
    }
}

impl Verifier {
    /// Reads the whole event log. After each page it calls `on_page` with the events that cannot be read.
    pub async fn check_log(
        &self,
        mut on_page: impl FnMut(Vec<UnreadableEvent>) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let mut after = Uuid::nil();
        loop {
            let rows = rows_after(&self.db, after).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.id;
            let unreadable = rows.into_iter().filter_map(|row| {
                let (event, read) = (row.id, Event::from_row(row, self.currency.code()));
                read.err().map(|error| UnreadableEvent { event, unreadable: error.to_string() })
            });
            if on_page(unreadable.collect()).is_break() {
                return Ok(());
            }
        }
    }
}
