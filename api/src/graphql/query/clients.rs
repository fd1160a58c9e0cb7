//! Clients: one by its id, as it is or as it was, or by its address, and lists of clients.

use async_graphql::{Context, ID};

use super::CLIENTS;
use crate::commands::clients::valid_email;
use crate::edge::auth::{READ_CLIENTS, READ_SALES};
use crate::edge::quota::AfterWait;
use crate::graphql::app;
use crate::graphql::arguments::{page_size, parse_id, parse_ids, parse_search};
use crate::graphql::authorize::{authorize_for, authorize_for_all};
use crate::graphql::database::database;
use crate::graphql::error::Error;
use crate::graphql::types::client::{Client, with_row};
use crate::graphql::types::client_list::{ClientConnection, ClientSort, parse_found_cursor, parse_rank_cursor};
use crate::history::{self, MAX_EVENTS};
use crate::queries::clients::AtVersion;
use crate::search;

pub async fn by_id(ctx: &Context<'_>, id: &ID, min_version: Option<i32>) -> Result<Option<Client>, Error> {
    authorize_for(ctx, READ_CLIENTS, [id.as_str()])?;
    let app = app(ctx);
    let min_version = min_version.unwrap_or(0);
    let client = match parse_id(id) {
        Some(id) if min_version > 0 => match app.clients.at_version(id, min_version, app.read_wait).await? {
            AtVersion::Reached(client) => {
                ctx.data_opt::<AfterWait>().map_or(Ok(()), AfterWait::begin)?;
                Some(client)
            }
            AtVersion::Behind(version) => return Err(Error::ReadModelBehind(version)),
        },
        Some(id) => app.clients.by_ids(&[id]).await?.pop().flatten(),
        None => None,
    };
    Ok(client.map(|client| Client::new(client, app.currency)))
}

pub async fn by_ids(ctx: &Context<'_>, ids: &[ID]) -> Result<Vec<Option<Client>>, Error> {
    authorize_for(ctx, READ_CLIENTS, ids.iter().map(|id| id.as_str()))?;
    let (app, ids) = (app(ctx), parse_ids(ids)?);
    let valid: Vec<i64> = ids.iter().flatten().copied().collect();
    let mut found = app.clients.by_ids(&valid).await?.into_iter();
    let mut clients = Vec::with_capacity(ids.len());
    for id in ids {
        // `found` has one result for each valid id, in the same order.
        let client = if id.is_some() { found.next().flatten() } else { None };
        clients.push(client.map(|client| Client::new(client, app.currency)));
    }
    Ok(clients)
}

pub async fn by_email(ctx: &Context<'_>, email: &str) -> Result<Option<Client>, Error> {
    authorize_for_all(ctx, READ_CLIENTS)?;
    let app = app(ctx);
    let Ok(email) = valid_email(email) else { return Ok(None) };
    let Some(row) = search::by_email(&*database(ctx).await, &email).await? else { return Ok(None) };
    let projected = app.clients.by_ids(&[row.id]).await?.pop().flatten();
    Ok(Some(Client::new(with_row(row, projected), app.currency)))
}

pub async fn find(
    ctx: &Context<'_>,
    search: &str,
    sort_by: Option<ClientSort>,
    first: Option<i32>,
    after: Option<String>,
) -> Result<ClientConnection, Error> {
    authorize_for_all(ctx, READ_CLIENTS)?;
    let (search, first, app) = (parse_search(search)?, page_size(first, CLIENTS)?, app(ctx));
    if sort_by.is_some() {
        return Err(Error::BadUserInput(
            "`sortBy` cannot be combined with `search`: found clients are in order of names.".into(),
        ));
    }
    let after = after.map(|cursor| parse_found_cursor(&cursor)).transpose()?;
    let found = search::page(&*database(ctx).await, search, after, first).await?;
    let ids: Vec<i64> = found.clients.iter().map(|(_, client)| client.id).collect();
    let projected = app.clients.by_ids(&ids).await?;
    Ok(ClientConnection::found(found, projected))
}

pub async fn ranked(
    ctx: &Context<'_>,
    sort_by: ClientSort,
    first: Option<i32>,
    after: Option<String>,
) -> Result<ClientConnection, Error> {
    authorize_for_all(ctx, READ_SALES)?;
    let first = page_size(first, CLIENTS)?;
    let after = after.map(|cursor| parse_rank_cursor(&cursor, sort_by)).transpose()?;
    let page = app(ctx).clients.page(sort_by.into(), after, first).await?;
    Ok(ClientConnection::ranked(&page, sort_by))
}

pub async fn at_version(
    ctx: &Context<'_>,
    id: &ID,
    version: i32,
    min_version: Option<i32>,
) -> Result<Option<Client>, Error> {
    authorize_for(ctx, READ_CLIENTS, [id.as_str()])?;
    let (app, id) = (app(ctx), parse_id(id).unwrap_or_default());
    if min_version.is_some() {
        return Err(Error::BadUserInput("`atVersion` cannot be combined with `minVersion`.".into()));
    }
    if !(1..=MAX_EVENTS).contains(&version) {
        let message = format!("`atVersion` is {version}: it must be from 1 to {MAX_EVENTS}.");
        return Err(Error::BadUserInput(message));
    }
    match history::client_at(&*database(ctx).await, id, version).await? {
        Some(client) if client.version < version => Err(Error::BadUserInput(format!(
            "`atVersion` is {version}: the client has only reached {}.",
            client.version
        ))),
        client => Ok(client.map(|client| Client::new(client, app.currency))),
    }
}
