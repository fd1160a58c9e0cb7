//! Checks of the token behind a request.

use std::sync::Arc;

use async_graphql::Context;

use super::arguments::parse_id;
use super::error::Error;
use crate::edge::auth::Identity;

/// The identity of the caller, if its token has the scope.
pub fn authorize<'a>(ctx: &Context<'a>, scope: &'static str) -> Result<&'a Identity, Error> {
    let identity = ctx.data_opt::<Arc<Identity>>().ok_or(Error::Unauthenticated)?;
    if identity.may(scope) { Ok(identity) } else { Err(Error::MissingScope(scope)) }
}

/// Also requires that the token allows all these clients.
pub fn authorize_for<'a>(
    ctx: &Context<'_>,
    scope: &'static str,
    clients: impl IntoIterator<Item = &'a str>,
) -> Result<(), Error> {
    match &authorize(ctx, scope)?.client {
        Some(only) if clients.into_iter().any(|client| client != only) => Err(Error::LimitedTo(only.clone())),
        _ => Ok(()),
    }
}

/// Also requires that the token is not restricted to one client.
pub fn authorize_for_all(ctx: &Context<'_>, scope: &'static str) -> Result<(), Error> {
    match &authorize(ctx, scope)?.client {
        Some(only) => Err(Error::LimitedTo(only.clone())),
        None => Ok(()),
    }
}

/// The client to whose orders the token is restricted. No order is of client 0, which stands for a claim that is no id.
pub fn only_client(identity: &Identity) -> Option<i64> {
    identity.client.as_deref().map(|client| parse_id(client).unwrap_or(0))
}
