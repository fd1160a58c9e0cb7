//! A release with a new format of the read model, in the order of docs/upgrading.md.

use read_model::generations::FORMAT;
use serde_json::{Value, json};
use test_support::load::Load;
use test_support::process::Process;
use test_support::until;
use test_support::user::{ALL_SCOPES, User};

use super::{prepared_by_previous, start_previous};

/// What the clients of the load have ordered, in orders and minor units, and how many of the orders were cancelled.
async fn sums(user: &User) -> [u64; 3] {
    let query = "{ clientsByIds(ids: [\"1\", \"2\", \"3\"]) { orderCount cancelledCount total { amount } } }";
    let response = user.graphql(query).await;
    let clients = response["data"]["clientsByIds"].as_array().unwrap_or_else(|| panic!("{response}"));
    let sum = |field: fn(&Value) -> u64| clients.iter().map(field).sum();
    let total =
        |client: &Value| client["total"]["amount"].as_str().unwrap_or_default().replace('.', "").parse().unwrap_or(0);
    [
        sum(|client| client["orderCount"].as_u64().unwrap_or(0)),
        sum(|client| client["cancelledCount"].as_u64().unwrap_or(0)),
        clients.iter().map(total).sum(),
    ]
}

/// Each api is stopped before the next one starts, because the new tables lack a column that the old one writes. Projectors of
/// both releases run side by side.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the release before: `make upgrade` builds them"]
async fn projectors_of_the_release_before_are_replaced_under_load_and_nothing_is_lost() {
    let stores = tokio::task::spawn_blocking(prepared_by_previous).await.unwrap();
    let token = stores.token(ALL_SCOPES, "1h");
    let generations = async || {
        let mut redis = stores.redis_client().get_multiplexed_async_connection().await.unwrap();
        let read = redis::cmd("HGET").arg("orders:meta").arg("generations").query_async::<String>(&mut redis).await;
        read.unwrap()
    };
    let live = |number: u32, format| format!("\"{number}\":{{\"state\":\"live\",\"format\":{format}}}");
    let stop = |process: Process| {
        let status = tokio::task::block_in_place(|| process.terminate());
        assert!(status.success(), "{status}");
    };

    let mut old_projector = start_previous("projector", &stores);
    old_projector.line_with("ready health=");
    let mut old_api = start_previous("api", &stores);
    let load = Load::start(&[User::new(&old_api.line_with("ready address="), &token)], 4);
    load.place_more(20).await;
    let mut placed = load.stop().await as u64;
    assert!(generations().await.contains(&live(1, FORMAT - 1)), "{}", generations().await);
    stop(old_api);

    let run = |program: &str, arguments: &[&str]| tokio::task::block_in_place(|| stores.run(program, arguments));
    run("migration", &["up"]);
    let mut api = Process::start("api", &[], &stores.variables());
    let user = User::new(&api.line_with("ready address="), &token);
    let load = Load::start(std::slice::from_ref(&user), 4);
    load.place_more(20).await;
    let mut projector = Process::start("projector", &[], &stores.variables());
    projector.line_with("ready health=");
    load.place_more(20).await;
    run("projector", &["rebuild", "start"]);
    assert!(generations().await.contains(&live(2, FORMAT)), "{}", generations().await);
    // The old projector holds its messages until it is replaced.
    load.place_more(20).await;
    stop(old_projector);
    load.place_more(20).await;
    placed += load.stop().await as u64;
    until("every order is counted once", async || sums(&user).await[0] == placed).await;
    let [_, _, total] = sums(&user).await;

    // The scope of cancellations is granted last.
    let orders = user.graphql("{ orders(first: 3) { nodes { id total { amount } } } }").await;
    let orders = orders["data"]["orders"]["nodes"].as_array().unwrap_or_else(|| panic!("{orders}")).clone();
    for order in &orders {
        let id = order["id"].as_str().unwrap();
        let mutation = format!(
            "mutation {{ cancelOrder(input: {{ orderId: \"{id}\", reason: \"changed my mind\" }}) {{ userErrors {{ message }} }} }}"
        );
        let response = user.graphql(&mutation).await;
        assert_eq!(response["data"]["cancelOrder"]["userErrors"], json!([]), "{response}");
    }
    let cancelled: u64 = orders
        .iter()
        .map(|order| order["total"]["amount"].as_str().unwrap().replace('.', "").parse::<u64>().unwrap())
        .sum();
    let net = [placed, 3, total - cancelled];
    until("the cancellations are counted", async || sums(&user).await == net).await;
    run("projector", &["verify", "--in-flight", "0s"]);

    // The generation of the release before has received the cancellations, too.
    run("projector", &["rebuild", "rollback", "--yes"]);
    assert!(generations().await.contains(&live(1, FORMAT - 1)), "{}", generations().await);
    until("it is read", async || sums(&user).await == net).await;
    run("projector", &["verify", "--in-flight", "0s"]);
    println!("upgrade: {placed} orders while the release before was replaced, none lost");
}
