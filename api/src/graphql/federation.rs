//! The schema as a subgraph of [Apollo Federation 2](https://www.apollographql.com/docs/graphos/schema-design/federated-schemas/reference/subgraph-spec):
//! a gateway composes it with other subgraphs and reads clients, products and orders by their ids.
//!
//! async-graphql has its own `_entities`, which reads one entity at a time and fails as a whole.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::LazyLock;

use async_graphql::parser::types::Field;
use async_graphql::registry::{MetaType, Registry};
use async_graphql::resolver_utils::resolve_container;
use async_graphql::{
    Any, ContainerType, Context, ContextSelectionSet, Object, ObjectType, OutputType, Positioned, ServerResult,
    SimpleObject, Union, Value,
};
use entity::order;
use uuid::Uuid;

use super::arguments::{MAX_PAGE, parse_id, parse_order_id};
use super::authorize::{authorize, authorize_for, only_client};
use super::cost_directives::{cost, list_size, max_size, names};
use super::database::database;
use super::error::Error;
use super::query::Query;
use super::types::client::Client;
use super::types::order::Order;
use super::types::product::Product;
use super::{app, schema};
use crate::edge::auth::{READ_CLIENTS, READ_ORDERS, READ_PRODUCTS};
use crate::orders::by_id::by_ids;

/// A place for the schema as a JSON string.
const MAX_SDL_BYTES: i32 = 128 * 1024;

/// The start of the schema of a subgraph. `PageInfo` is shareable because other subgraphs define it, too.
const LINK: &str =
    r#"extend schema @link(url: "https://specs.apollo.dev/federation/v2.3", import: ["@key", "@shareable"])"#;
const DIRECTIVES: [(&str, &str); 4] = [
    ("Client", r#"@key(fields: "id")"#),
    ("Product", r#"@key(fields: "id")"#),
    ("Order", r#"@key(fields: "id")"#),
    ("PageInfo", "@shareable"),
];

/// The fields of a representation that are read.
pub const KEY: [&str; 2] = ["__typename", "id"];

static SUBGRAPH_SDL: LazyLock<String> = LazyLock::new(|| {
    let directives = DIRECTIVES.into_iter().fold(schema(None).sdl(), |sdl, (name, directive)| {
        sdl.replace(&format!("\ntype {name} {{"), &format!("\ntype {name} {directive} {{"))
    });
    format!("{LINK}\n\n{directives}")
});

/// The schema that a gateway composes: without the fields that only it calls.
pub fn subgraph_sdl() -> &'static str {
    &SUBGRAPH_SDL
}

/// The root type of queries, with the fields of [`Query`] and [`Federation`].
pub struct SubgraphQuery;

impl ContainerType for SubgraphQuery {
    async fn resolve_field(&self, ctx: &Context<'_>) -> ServerResult<Option<Value>> {
        match Query.resolve_field(ctx).await? {
            Some(value) => Ok(Some(value)),
            None => Federation.resolve_field(ctx).await,
        }
    }
}

impl OutputType for SubgraphQuery {
    fn type_name() -> std::borrow::Cow<'static, str> {
        <Query as OutputType>::type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        let ty = Query::create_type_info(registry);
        let more = registry.create_fake_output_type::<Federation>();
        let query = registry.types.get_mut(&*Self::type_name());
        if let (Some(MetaType::Object { fields, .. }), MetaType::Object { fields: more, .. }) = (query, more) {
            fields.extend(more);
        }
        ty
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, _: &Positioned<Field>) -> ServerResult<Value> {
        resolve_container(ctx, self).await
    }
}

impl ObjectType for SubgraphQuery {}

struct Federation;

/// The fields that a gateway calls.
#[Object]
impl Federation {
    /// This subgraph. Requires a token.
    #[graphql(name = "_service", directive = cost::apply("20".into()))]
    async fn service(&self) -> Service {
        Service { sdl: subgraph_sdl().to_owned() }
    }

    /// The entities of these representations, in the same order. Null for one that does not exist. Requires the same scopes as the
    /// fields `client`, `product` and `order`.
    #[graphql(
        name = "_entities",
        directive = cost::apply("9".into()),
        directive = list_size::apply(None, names(&["representations"]), None, None)
    )]
    async fn entities(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The type and the id of each entity, at most 100.", directive = cost::apply("1".into()))]
        representations: Vec<Any>,
    ) -> Result<Vec<Option<Result<Entity, Error>>>, Error> {
        let count = representations.len();
        if count > MAX_PAGE {
            let message = format!("`representations` has {count} elements: at most {MAX_PAGE} are allowed.");
            return Err(Error::BadUserInput(message));
        }
        let keys: Vec<Result<Key, Error>> =
            representations.iter().map(|representation| Key::parse(ctx, &representation.0)).collect();
        let found = Found::read(ctx, keys.iter().flatten()).await;
        Ok(keys.into_iter().map(|key| key.and_then(|key| found.get(ctx, key)).transpose()).collect())
    }
}

/// A subgraph.
#[derive(SimpleObject)]
#[graphql(name = "_Service")]
struct Service {
    /// The schema of this subgraph.
    #[graphql(directive = max_size::apply(Some(MAX_SDL_BYTES), None))]
    sdl: String,
}

/// An entity that a gateway can read by its id.
#[derive(Union)]
#[graphql(name = "_Entity")]
enum Entity {
    Client(Client),
    Product(Product),
    Order(Order),
}

/// The key of a representation that the token may read. `None` stands for an id that no entity can have.
#[derive(Clone, Copy)]
enum Key {
    Client(Option<i64>),
    Product(Option<i64>),
    Order(Option<Uuid>),
}

impl Key {
    fn parse(ctx: &Context<'_>, representation: &Value) -> Result<Key, Error> {
        let [Some(ty), Some(id)] = KEY.map(|field| text(representation, field)) else {
            let example = r#"{ "__typename": "Client", "id": "1" }"#;
            return Err(Error::BadUserInput(format!("A representation has a type and an id, such as {example}.")));
        };
        match &*ty {
            "Client" => authorize_for(ctx, READ_CLIENTS, [&*id]).map(|()| Key::Client(parse_id(&id))),
            "Product" => authorize(ctx, READ_PRODUCTS).map(|_| Key::Product(parse_id(&id))),
            "Order" => authorize(ctx, READ_ORDERS).map(|_| Key::Order(parse_order_id(&id))),
            _ => Err(Error::BadUserInput("`__typename` must be Client, Product or Order.".into())),
        }
    }
}

/// A field of a representation. An id may also be a whole number.
fn text(representation: &Value, field: &str) -> Option<String> {
    let Value::Object(fields) = representation else { return None };
    match fields.get(field)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => number.as_i64().map(|number| number.to_string()),
        _ => None,
    }
}

type Read<K, T> = Result<HashMap<K, T>, Error>;

/// The entities of all representations, read in one round trip for each type.
struct Found {
    clients: Read<i64, read_model::Client>,
    products: Read<i64, read_model::Product>,
    orders: Read<Uuid, order::Model>,
}

impl Found {
    async fn read(ctx: &Context<'_>, keys: impl Iterator<Item = &Key>) -> Found {
        let (mut clients, mut products, mut orders) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            match *key {
                Key::Client(id) => clients.extend(id),
                Key::Product(id) => products.extend(id),
                Key::Order(id) => orders.extend(id),
            }
        }
        let app = app(ctx);
        let (clients, products, orders) = tokio::join!(
            read(clients, async |ids| {
                let found = app.clients.by_ids(ids).await?;
                Ok(found.into_iter().flatten().map(|client| (client.id, client)).collect())
            }),
            read(products, async |ids| {
                let found = app.catalogue.by_ids(ids).await?;
                Ok(found.into_iter().flatten().map(|product| (product.id, product)).collect())
            }),
            read(orders, async |ids| {
                let only_client = only_client(authorize(ctx, READ_ORDERS)?);
                Ok(by_ids(&*database(ctx).await, ids, only_client).await?)
            }),
        );
        Found { clients, products, orders }
    }

    fn get(&self, ctx: &Context<'_>, key: Key) -> Result<Option<Entity>, Error> {
        let currency = app(ctx).currency;
        let client = |client| Entity::Client(Client::new(client, currency));
        let product = |product| Entity::Product(Product::new(product, currency));
        let order = |order: order::Model| Entity::Order(Order::new(&order, currency));
        Ok(match key {
            Key::Client(id) => of(&self.clients, id)?.map(client),
            Key::Product(id) => of(&self.products, id)?.map(product),
            Key::Order(id) => of(&self.orders, id)?.map(order),
        })
    }
}

async fn read<K: Copy + Eq + Hash + Ord, T>(mut ids: Vec<K>, read: impl AsyncFnOnce(&[K]) -> Read<K, T>) -> Read<K, T> {
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() { Ok(HashMap::new()) } else { read(&ids).await }
}

fn of<K: Eq + Hash, T: Clone>(found: &Read<K, T>, id: Option<K>) -> Result<Option<T>, Error> {
    let found = found.as_ref().map_err(Clone::clone)?;
    Ok(id.and_then(|id| found.get(&id)).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entity_has_its_key() {
        let schema = apollo_compiler::Schema::parse(subgraph_sdl(), "schema").unwrap();
        for (name, directive) in DIRECTIVES {
            let directives = schema.types[name].directives();
            assert!(directives.iter().any(|found| found.to_string() == directive), "{name}: {directives}");
        }
        assert!(!subgraph_sdl().contains("_entities"));
        let json = serde_json::to_string(subgraph_sdl()).unwrap();
        assert!(json.len() <= MAX_SDL_BYTES as usize, "{} bytes", json.len());
    }
}
