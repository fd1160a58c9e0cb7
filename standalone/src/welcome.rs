//! The text that standalone prints when it is ready.

use std::net::SocketAddr;

use api::config::Settings;
use api::edge::pages;
use api::edge::pages::graphiql;

pub fn text(settings: &Settings, address: SocketAddr, token: Option<&str>) -> String {
    let store = |url: &Option<String>, variable: &str, embedded: &str| match url {
        Some(_) => variable.to_owned(),
        None => embedded.to_owned(),
    };
    let database = store(
        &settings.database_url,
        "DATABASE_URL",
        "SQLite in memory (DATABASE_URL=sqlite://orders.db keeps orders)",
    );
    let queue = store(&settings.queue_url, "QUEUE_URL", "embedded");
    let read_model =
        store(&settings.read_model.redis_url, "REDIS_URL", "in memory, rebuilt from the database at start");
    let graphiql = match graphiql::is_built_in() {
        true => "",
        false => "   (not built in: its scripts come from unpkg.com)",
    };
    let pages = match pages::are_built_in() {
        true => format!("http://{address}/admin\n  Shop        http://{address}/shop"),
        false => "not built in; `make run` builds it if npm is installed".into(),
    };
    let try_it = match token {
        Some(token) => first_order(address, token),
        None => "Tokens are verified with the keys at JWT_JWKS_URL.".into(),
    };
    format!(
        r"The order service is ready.

  GraphiQL    http://{address}/graphiql/{graphiql}
  Back office {pages}
  GraphQL     POST http://{address}/graphql
  Health      http://{address}/health/ready

  Database    {database}
  Queue       {queue}
  Read model  {read_model}

{try_it}
"
    )
}

/// A token, and a command that places an order with it.
fn first_order(address: SocketAddr, token: &str) -> String {
    format!(
        r#"A token for development, valid for 12 hours, and a command that orders 1 computer and 3 phones for Bob:

export TOKEN={token}

curl http://{address}/graphql -H 'Content-Type: application/json' -H "Authorization: Bearer $TOKEN" \
  -d '{{"query": "mutation {{ placeOrder(input: {{clientId: \"1\", items: [{{productId: \"1\", quantity: 1}}, {{productId: \"2\", quantity: 3}}]}}) {{ order {{ id total {{ amount }} }} clientVersion userErrors {{ message }} }} }}"}}'"#
    )
}

pub fn queue_text(address: SocketAddr) -> String {
    format!(
        "The embedded queue is ready at http://{address}. Settings for the processes that use it:\n\n\
         export AWS_ENDPOINT_URL=http://{address} AWS_REGION=us-east-1\n\
         export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any"
    )
}
