use async_graphql::connection::PageInfo;
use async_graphql::{ComplexObject, Context, Enum, ID, InputObject, SimpleObject};
use entity::client;
use iso_currency::Currency;
use read_model::{RankPosition, Ranking};

use super::money::Money;
use super::order::ClientOrder;
use super::page::page_info;
use crate::commands::master_data::Fault;
use crate::edge::auth::READ_SALES;
use crate::graphql::cost_directives::{list_size, names};
use crate::graphql::error::Error;
use crate::graphql::scalars::{DateTime, int};
use crate::graphql::user_error::{UserError, UserErrorCode, fault_of};
use crate::graphql::{app, authorize_for, page_size, parse_id};

/// A client and what its orders add up to, as projected from the events so far.
#[derive(Clone, SimpleObject)]
#[graphql(complex)]
pub struct Client {
    /// The client's id.
    id: ID,
    /// The client's name, as of its newest projected event.
    name: String,
    /// The client's e-mail address, as of its newest projected event.
    email: String,
    /// What all orders of the client add up to.
    total: Money,
    /// How many orders the client has placed.
    order_count: i32,
    /// When the client placed its newest order.
    last_purchase: Option<DateTime>,
    /// Every event of the client up to this version is included. Compare it with `clientVersion` of a mutation.
    version: i32,
}

impl Client {
    pub fn new(client: read_model::Client, currency: Currency) -> Client {
        Client {
            id: client.id.into(),
            name: client.name,
            email: client.email,
            total: Money::new(client.total, currency),
            order_count: int(client.order_count),
            last_purchase: client.last_purchase.map(DateTime),
            version: client.version,
        }
    }
}

#[ComplexObject]
impl Client {
    /// The client's newest orders, newest first: the last 50 are kept. Needs the scope `sales:read`.
    #[graphql(directive = list_size::apply(None, names(&["first"]), None, Some(false)))]
    async fn recent_orders(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, from 1 to 100.", default = 10)] first: i32,
    ) -> Result<Vec<ClientOrder>, Error> {
        authorize_for(ctx, READ_SALES, [self.id.as_str()])?;
        let app = app(ctx);
        let recent = app.read_model.recent_orders(&[parse_id(&self.id)], page_size(first)?).await?;
        Ok(recent
            .into_iter()
            .flatten()
            .map(|purchase| ClientOrder::new(purchase, Some(self.clone()), app.currency))
            .collect())
    }
}

/// A page of clients.
#[derive(SimpleObject)]
pub struct ClientConnection {
    /// The clients of this page, each with its cursor.
    pub edges: Vec<ClientEdge>,
    /// The same clients without cursors.
    pub nodes: Vec<Client>,
    /// Whether there is more, and where it continues.
    pub page_info: PageInfo,
}

/// A client and where it stands in the list.
#[derive(SimpleObject)]
pub struct ClientEdge {
    /// The client.
    pub node: Client,
    /// Continue after this place with `clients(after:)`. It stays where it is when clients move.
    pub cursor: String,
}

impl ClientConnection {
    pub fn new(
        clients: impl Iterator<Item = (RankPosition, read_model::Client)>,
        by: Ranking,
        has_previous_page: bool,
        has_next_page: bool,
        currency: Currency,
    ) -> ClientConnection {
        let edge =
            |(place, client)| ClientEdge { node: Client::new(client, currency), cursor: place_to_cursor(place, by) };
        let edges: Vec<ClientEdge> = clients.map(edge).collect();
        let page_info = page_info(edges.iter().map(|edge| &edge.cursor), has_previous_page, has_next_page);
        let nodes: Vec<Client> = edges.iter().map(|edge| edge.node.clone()).collect();
        ClientConnection { edges, nodes, page_info }
    }
}

/// `rank:id`, after a letter that tells the ranking.
fn place_to_cursor(RankPosition { rank, id }: RankPosition, by: Ranking) -> String {
    let letter = match by {
        Ranking::Total => 't',
        Ranking::LastPurchase => 'p',
    };
    format!("{letter}{rank}:{id}")
}

pub fn place_of_cursor(text: &str, by: Ranking) -> Result<RankPosition, Error> {
    let place = || {
        let (rank, id) = text.get(1..)?.split_once(':')?;
        let place = RankPosition { rank: rank.parse().ok()?, id: parse_id(id) };
        (place_to_cursor(place, by) == text).then_some(place)
    };
    place().ok_or_else(|| Error::BadUserInput("`after` is not a cursor of this list.".into()))
}

/// The order of a list of clients.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
pub enum ClientOrderBy {
    /// By what their orders add up to, the most first.
    TotalDesc,
    /// By when they placed their newest order, the last first.
    LastPurchaseDesc,
}

impl From<ClientOrderBy> for Ranking {
    fn from(by: ClientOrderBy) -> Ranking {
        match by {
            ClientOrderBy::TotalDesc => Ranking::Total,
            ClientOrderBy::LastPurchaseDesc => Ranking::LastPurchase,
        }
    }
}

/// A client to register.
#[derive(InputObject)]
pub struct RegisterClientInput {
    /// What it is called: from 1 to 200 characters.
    pub name: String,
    /// Its e-mail address, at most 200 characters, which no other client has. Kept in small letters.
    pub email: String,
}

/// What changes of a client. What is left out stays.
#[derive(InputObject)]
pub struct UpdateClientInput {
    /// The client.
    pub id: ID,
    /// What it is called: from 1 to 200 characters.
    pub name: Option<String>,
    /// Its e-mail address, at most 200 characters, which no other client has. Kept in small letters.
    pub email: Option<String>,
}

/// What became of a client that was to be registered or changed: either `client` is there, or `userErrors` says why not.
#[derive(SimpleObject)]
pub struct ClientPayload {
    /// The client from now on.
    pub client: Option<ClientDetails>,
    /// The client's version that this made. `client(id:, minVersion:)` with it waits until the read model has it.
    pub client_version: Option<i32>,
    /// Everything that is wrong; empty when it was done.
    pub user_errors: Vec<UserError>,
}

/// What a client is, without what its orders add up to.
#[derive(SimpleObject)]
pub struct ClientDetails {
    /// The client's id.
    id: ID,
    /// The client's name.
    name: String,
    /// The client's e-mail address.
    email: String,
}

impl From<Result<client::Model, Vec<Fault>>> for ClientPayload {
    fn from(changed: Result<client::Model, Vec<Fault>>) -> ClientPayload {
        match changed {
            Ok(client::Model { id, name, email, version }) => ClientPayload {
                client: Some(ClientDetails { id: id.into(), name, email }),
                client_version: Some(version),
                user_errors: Vec::new(),
            },
            Err(faults) => {
                let not_found = (UserErrorCode::ClientNotFound, "There is no such client.", "id");
                let user_errors = faults.into_iter().map(|fault| fault_of(fault, not_found)).collect();
                ClientPayload { client: None, client_version: None, user_errors }
            }
        }
    }
}
