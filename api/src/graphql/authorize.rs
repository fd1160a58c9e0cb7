//! What the token behind a request allows.

use std::sync::Arc;

use async_graphql::Context;

use crate::edge::auth::Identity;
use crate::graphql::error::Error;

/// The identity behind the request, if its token has the scope.
pub fn authorize<'a>(ctx: &Context<'a>, scope: &str) -> Result<&'a Identity, Error> {
    let identity = ctx.data_opt::<Arc<Identity>>().ok_or(Error::Unauthenticated)?;
    if identity.may(scope) { Ok(identity) } else { Err(Error::Forbidden) }
}

/// The same, if the token may also act for all of these clients.
pub fn authorize_for<'a>(
    ctx: &Context<'_>,
    scope: &str,
    clients: impl IntoIterator<Item = &'a str>,
) -> Result<(), Error> {
    match &authorize(ctx, scope)?.client {
        Some(only) if clients.into_iter().any(|client| client != only) => Err(Error::Forbidden),
        _ => Ok(()),
    }
}

/// The same, if the token is not for one client alone.
pub fn authorize_for_all(ctx: &Context<'_>, scope: &str) -> Result<(), Error> {
    match authorize(ctx, scope)?.client {
        Some(_) => Err(Error::Forbidden),
        None => Ok(()),
    }
}
