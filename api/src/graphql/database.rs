//! How resolvers get the command database: each waits for one of the connections of its caller. `scripts/check-layers` finds others.

use std::ops::Deref;

use async_graphql::Context;
use sea_orm::DatabaseConnection;
use tokio::sync::OwnedSemaphorePermit;

use super::{App, app};
use crate::commands::Commands;
use crate::connections::ConnectionQuota;

/// The command database for one statement at a time.
pub struct Database<'a> {
    db: &'a DatabaseConnection,
    _permit: OwnedSemaphorePermit,
}

impl Deref for Database<'_> {
    type Target = DatabaseConnection;

    fn deref(&self) -> &DatabaseConnection {
        self.db
    }
}

pub async fn database<'a>(ctx: &Context<'a>) -> Database<'a> {
    let App { db, .. } = app(ctx);
    Database { db, _permit: ctx.data_unchecked::<ConnectionQuota>().acquire().await }
}

/// The commands, with the connections of the caller.
pub fn commands(ctx: &Context<'_>) -> Commands {
    let App { commands, .. } = app(ctx);
    commands.with_connections(ctx.data_unchecked::<ConnectionQuota>().clone())
}
