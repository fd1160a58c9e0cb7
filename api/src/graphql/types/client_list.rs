//! Lists of clients: ranked by their orders, or found by a search.

use async_graphql::{Context, Enum, Object, SimpleObject};
use entity::event::MAX_NAME;
use read_model::{RankPosition, Ranking};

use super::client::{Client, with_row};
use super::page::{PageInfo, SEARCH_CURSOR_BYTES};
use crate::graphql::app;
use crate::graphql::arguments::{invalid_cursor, parse_id};
use crate::graphql::cost_directives::max_size;
use crate::graphql::error::Error;
use crate::queries::clients::ClientPage;
use crate::search::{Found, Position};

pub struct ClientConnection {
    /// With their cursors.
    clients: Vec<(String, read_model::Client)>,
    has_previous_page: bool,
    has_next_page: bool,
    end_cursor: Option<String>,
}

impl ClientConnection {
    pub fn ranked(page: &ClientPage, sort_by: ClientSort) -> ClientConnection {
        let clients = page.clients.iter().map(|(position, client)| (rank_cursor(*position, sort_by), client.clone()));
        let clients: Vec<_> = clients.collect();
        let end_cursor = clients.last().map(|(cursor, _)| cursor.clone());
        let ClientPage { has_previous_page, has_next_page, .. } = *page;
        ClientConnection { clients, has_previous_page, has_next_page, end_cursor }
    }

    /// Found clients, and those of the read model in the same sequence.
    pub fn found(page: Found, projected: Vec<Option<read_model::Client>>) -> ClientConnection {
        let (has_previous_page, has_next_page) = (page.has_previous_page, page.next.is_some());
        let clients = page.clients.into_iter().zip(projected);
        let clients = clients.map(|((position, row), projected)| (found_cursor(&position), with_row(row, projected)));
        let clients: Vec<_> = clients.collect();
        let last = clients.last().map(|(cursor, _)| cursor.clone());
        let end_cursor = page.next.as_ref().map(found_cursor).or(last);
        ClientConnection { clients, has_previous_page, has_next_page, end_cursor }
    }
}

/// A page of clients.
#[Object]
impl ClientConnection {
    /// The clients of the page, each with its cursor.
    async fn edges(&self, ctx: &Context<'_>) -> Vec<ClientEdge> {
        let currency = app(ctx).currency;
        let edge = |(cursor, client): &(String, read_model::Client)| ClientEdge {
            node: Client::new(client.clone(), currency),
            cursor: cursor.clone(),
        };
        self.clients.iter().map(edge).collect()
    }

    /// The clients of the page.
    async fn nodes(&self, ctx: &Context<'_>) -> Vec<Client> {
        self.clients.iter().map(|(_, client)| Client::new(client.clone(), app(ctx).currency)).collect()
    }

    /// The position of the page in the list.
    async fn page_info(&self) -> PageInfo {
        PageInfo {
            has_previous_page: self.has_previous_page,
            has_next_page: self.has_next_page,
            start_cursor: self.clients.first().map(|(cursor, _)| cursor.clone()),
            end_cursor: self.end_cursor.clone(),
        }
    }
}

/// A client and its cursor.
#[derive(SimpleObject)]
pub struct ClientEdge {
    /// The client.
    node: Client,
    /// The cursor for `clients(after:)`. It names a position in the ranking or in the search, so it stays valid when clients move.
    #[graphql(directive = max_size::apply(Some(SEARCH_CURSOR_BYTES), None))]
    cursor: String,
}

/// A letter for the ranking, then `rank:id`.
fn rank_cursor(RankPosition { rank, id }: RankPosition, sort_by: ClientSort) -> String {
    let letter = match sort_by {
        ClientSort::TotalDesc => 't',
        ClientSort::LastPurchaseDesc => 'p',
    };
    format!("{letter}{rank}:{id}")
}

/// The position after which a page begins.
///
/// # Errors
/// If the text is not a cursor of a list sorted like this.
pub fn parse_rank_cursor(text: &str, sort_by: ClientSort) -> Result<RankPosition, Error> {
    let position = || {
        let (rank, id) = text.get(1..)?.split_once(':')?;
        let position = RankPosition { rank: rank.parse().ok()?, id: parse_id(id)? };
        (rank_cursor(position, sort_by) == text).then_some(position)
    };
    position().ok_or_else(invalid_cursor)
}

/// `n`, the id and the name, or `a` and the address.
fn found_cursor(position: &Position) -> String {
    match position {
        Position::Name(name, id) => format!("n{id}:{name}"),
        Position::Address(address) => format!("a{address}"),
    }
}

/// The position after which a page of found clients begins.
///
/// # Errors
/// If the text is not a cursor of such a list.
pub fn parse_found_cursor(text: &str) -> Result<Position, Error> {
    let is_valid = |text: &str| text.chars().count() <= MAX_NAME && !text.chars().any(char::is_control);
    let position = match text.split_at_checked(1) {
        Some(("n", rest)) => rest.split_once(':').and_then(|(id, name)| Some((name, parse_id(id)?))),
        Some(("a", address)) if is_valid(address) => return Ok(Position::Address(address.to_owned())),
        _ => None,
    };
    let position = position.filter(|(name, _)| is_valid(name));
    position.map(|(name, id)| Position::Name(name.to_owned(), id)).ok_or_else(invalid_cursor)
}

/// The sort order of a list of clients.
#[derive(Clone, Copy, Default, PartialEq, Eq, Enum)]
pub enum ClientSort {
    /// The highest total first. This is the order if none is named.
    #[default]
    TotalDesc,
    /// The newest purchase first.
    LastPurchaseDesc,
}

impl From<ClientSort> for Ranking {
    fn from(sort_by: ClientSort) -> Ranking {
        match sort_by {
            ClientSort::TotalDesc => Ranking::Total,
            ClientSort::LastPurchaseDesc => Ranking::LastPurchase,
        }
    }
}
