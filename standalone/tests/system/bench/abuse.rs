//! What one caller notices of another that does as much harm as the default limits allow.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use test_support::process::{Process, memory_mebibytes, repository_file};
use test_support::services::Stores;
use test_support::user::{ALL_SCOPES, SAMPLE_ORDER, User};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::latency::at_rate;

/// Requests of the other caller each second, half of them orders, and how long it sends them.
const RATE: u32 = 50;
const TURN: u32 = 6;
/// Time for an attack to begin, and for the service to recover.
const PAUSE: Duration = Duration::from_secs(3);
/// Callers of an attack that needs several.
const CALLERS: usize = 4;

/// The defaults of settings that tests change, and a page.
const DEFAULTS: [(&str, &str); 7] = [
    ("RUST_LOG", "warn,api=info,projector=info,api::edge::access_log=warn"),
    ("READ_WAIT", "2s"),
    ("OPERATION_TIMEOUT", "5s"),
    ("RATE_LIMIT", "5000"),
    ("RATE_LIMIT_SUBJECTS", "setup=0"),
    ("MAX_LIVE_CONNECTIONS_PER_CALLER", "1000"),
    ("GRAPHIQL", "1"),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench ONLY=abuse` runs it on a release build"]
async fn abuse() {
    let mut stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    for (name, value) in DEFAULTS {
        stores.set(name, value);
    }
    let mut api = Process::start("api", &[], &stores.variables());
    let mut projector = Process::start("projector", &[], &stores.variables());
    projector.line_with("ready health=");
    let address = api.line_with("ready address=");
    let user = |subject: &str| {
        let arguments = ["token", "--scope", ALL_SCOPES, "--ttl", "1h", "--subject", subject];
        User::new(&address, stores.run("api", &arguments).trim())
    };
    let (other, setup) = (user("other"), user("setup"));
    place_large_orders(&setup).await;
    let attackers: Vec<User> = (0..CALLERS).map(|n| user(&format!("attacker {n}"))).collect();

    println!("\n### Abuse within the default limits\n");
    println!("| {:<52} | {:>6} | {:>6} | {:>9} | {:>6} |", "", "p50 ms", "p99 ms", "succeeded", "+ MiB");
    println!("|{:-<54}|{:->7}:|{:->7}:|{:->10}:|{:->7}:|", "", "", "", "", "");
    report("no attack", &api, &other, JoinSet::new()).await;
    let attacks = [
        ("4 callers read none of 20 responses of 8 MB", unread_responses as fn(&[User]) -> JoinSet<()>),
        ("4 callers wait 128 times for a version", waiting),
        ("a caller sends ever new documents of 5 KiB", new_documents),
        ("the same without a token", new_documents_without_token),
        ("a caller has 1,000 streams of a client, and orders", fan_out),
        ("a caller sends batches of eight orders of 100 lines", large_batches),
        ("3 WebSockets send nothing but empty frames", empty_frames),
        ("200 connections read none of a page's file", unread_files),
    ];
    for (name, attack) in attacks {
        report(name, &api, &other, attack(&attackers)).await;
    }
}

/// Measures what the other caller notices, and then ends the attack.
async fn report(name: &str, api: &Process, other: &User, attack: JoinSet<()>) {
    let before = memory_mebibytes(api.id(), "VmRSS");
    sleep(PAUSE).await;
    let succeeded = AtomicUsize::new(0);
    let (sent, answered) = at_rate(RATE, RATE * TURN, async |n| {
        let query = format!("{{ client(id: {}) {{ name total {{ amount }} recentOrders {{ id }} }} }}", n % 3 + 1);
        let succeeds = match n % 2 {
            0 => ask(other, &query).await.is_some_and(|response| response["errors"].is_null()),
            _ => other.try_to_place("2", &SAMPLE_ORDER, None).await.is_ok(),
        };
        succeeded.fetch_add(succeeds.into(), Ordering::Relaxed);
    })
    .await;
    let more = memory_mebibytes(api.id(), "VmRSS") - before;
    drop(attack);
    let mut times: Vec<Duration> = sent.iter().zip(&answered).map(|(sent, answered)| *answered - *sent).collect();
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    let share = 100.0 * succeeded.load(Ordering::Relaxed) as f64 / times.len() as f64;
    println!("| {name:<52} | {:>6.1} | {:>6.1} | {share:>7.1} % | {more:>6.0} |", at(0.5), at(0.99));
    sleep(PAUSE).await;
}

/// `None` if there is no response in JSON.
async fn ask(user: &User, query: &str) -> Option<Value> {
    let request = user.http.post(format!("http://{}/graphql", user.address)).bearer_auth(&user.token);
    request.json(&json!({ "query": query })).send().await.ok()?.json().await.ok()
}

fn order_of_100_lines(product: &str) -> String {
    let line = format!("{{ productId: \"{product}\", quantity: 1 }}");
    format!("placeOrder(input: {{ clientId: 3, items: [{}] }}) {{ replayed }}", line.repeat(100))
}

/// 100 orders of 100 lines whose names are as long as possible.
async fn place_large_orders(setup: &User) {
    let name = "\u{1f600}".repeat(200);
    let create =
        format!("mutation {{ createProduct(input: {{ name: \"{name}\", price: \"1\" }}) {{ product {{ id }} }} }}");
    let created = ask(setup, &create).await.unwrap();
    let product = created["data"]["createProduct"]["product"]["id"].as_str().unwrap().to_owned();
    let place = format!("mutation {{ {} }}", order_of_100_lines(&product));
    for _ in 0..10 {
        let placed = join_all((0..10).map(|_| ask(setup, &place))).await;
        assert!(placed.iter().flatten().all(|response| response["errors"].is_null()), "{placed:?}");
    }
}

/// Repeats an attack by each caller, so many times at once, until it is dropped.
fn repeat<F>(attackers: &[User], callers: usize, times: usize, attack: impl Fn(User, usize) -> F) -> JoinSet<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut attacks = JoinSet::new();
    for user in &attackers[..callers] {
        for n in 0..times {
            attacks.spawn(attack(user.clone(), n));
        }
    }
    attacks
}

/// Sends a request and reads nothing.
async fn send_only(address: &str, request: &str, token: &str, body: &str) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let Ok(mut stream) = socket.connect(address.parse().unwrap()).await else { return };
    let head = format!(
        "{request} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all((head + body).as_bytes()).await;
    sleep(2 * PAUSE + Duration::from_secs(TURN.into())).await;
}

fn unread_responses(attackers: &[User]) -> JoinSet<()> {
    repeat(attackers, CALLERS, 20, |user: User, _| async move {
        let query = json!({ "query": "{ orders(first: 100, clientId: 3) { nodes { items { name } } } }" });
        send_only(&user.address, "POST /graphql", &user.token, &query.to_string()).await;
    })
}

fn waiting(attackers: &[User]) -> JoinSet<()> {
    repeat(attackers, CALLERS, 128, |user: User, _| async move {
        loop {
            ask(&user, "{ client(id: 1, minVersion: 1000000) { id } }").await;
        }
    })
}

fn new_document(n: usize) -> String {
    format!("query Q{n} {{ product(id: 1) {{ {} }} }} #{}", "id ".repeat(900), "x".repeat(2_400))
}

fn new_documents(attackers: &[User]) -> JoinSet<()> {
    repeat(attackers, 1, 32, |user: User, first| async move {
        for n in 0.. {
            ask(&user, &new_document(first * 1_000_000 + n)).await;
        }
    })
}

fn new_documents_without_token(attackers: &[User]) -> JoinSet<()> {
    repeat(attackers, 1, 32, |user: User, first| async move {
        for n in 0.. {
            let request = user.http.post(format!("http://{}/graphql", user.address));
            let _ = request.json(&json!({ "query": new_document(first * 1_000_000 + n) })).send().await;
        }
    })
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A WebSocket after `connection_init`.
async fn socket(user: &User) -> Socket {
    let mut request = format!("ws://{}/graphql", user.address).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
    request.headers_mut().insert("authorization", format!("Bearer {}", user.token).parse().unwrap());
    let (mut socket, _) = connect_async(request).await.unwrap();
    socket.send(Message::text(r#"{"type":"connection_init"}"#)).await.unwrap();
    socket.next().await.unwrap().unwrap();
    socket
}

fn fan_out(attackers: &[User]) -> JoinSet<()> {
    let mut attacks = repeat(attackers, 1, 10, |user: User, _| async move {
        let mut socket = socket(&user).await;
        let payload = json!({ "query": "subscription { clientChanged(id: 1) { name version recentOrders { id } } }" });
        for id in 0..100 {
            let subscribe = json!({ "id": id.to_string(), "type": "subscribe", "payload": payload });
            socket.send(Message::text(subscribe.to_string())).await.unwrap();
        }
        while let Some(Ok(_)) = socket.next().await {}
    });
    let user = attackers[0].clone();
    attacks.spawn(async move {
        loop {
            let _ = user.try_to_place("1", &SAMPLE_ORDER, None).await;
            sleep(Duration::from_millis(20)).await;
        }
    });
    attacks
}

/// Nine would cost more than an operation may.
fn large_batches(attackers: &[User]) -> JoinSet<()> {
    let orders: String = (0..8).map(|n| format!("m{n}: {} ", order_of_100_lines("1"))).collect();
    repeat(attackers, 1, 8, move |user: User, _| {
        let query = format!("mutation {{ {orders} }}");
        async move {
            loop {
                ask(&user, &query).await;
            }
        }
    })
}

/// A text that goes on without a character more, so that no message is ever complete.
fn empty_frames(attackers: &[User]) -> JoinSet<()> {
    repeat(attackers, 1, 3, |user: User, _| async move {
        let mut socket = socket(&user).await;
        let stream = socket.get_mut();
        let frames = [0x00, 0x80, 0, 0, 0, 0].repeat(50_000);
        let _ = stream.write_all(&[0x01, 0x81, 0, 0, 0, 0, b'{']).await;
        while stream.write_all(&frames).await.is_ok() {}
    })
}

fn unread_files(attackers: &[User]) -> JoinSet<()> {
    let files = std::fs::read_dir(repository_file("web/dist/graphiql/assets")).unwrap().map(|file| file.unwrap());
    let largest = files.max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    let request = format!("GET /graphiql/assets/{}", largest.file_name().to_str().unwrap());
    repeat(attackers, 1, 200, move |user: User, _| {
        let request = request.clone();
        async move { send_only(&user.address, &request, "", "").await }
    })
}
