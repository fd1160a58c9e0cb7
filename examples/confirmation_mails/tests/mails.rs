//! The mailer on a queue, a database and an SMTP server that keeps the mails.

use std::sync::{Arc, Mutex};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use confirmation_mails::Mailer;
use lettre::AsyncSmtpTransport;
use sea_orm::Database;
use serde_json::Value;
use test_support::postgres::{self, PostgresDatabase};
use test_support::{sqs, until};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const ORDER_PLACED: &str = include_str!("../../../events/orders.OrderPlaced.v1.schema.json");
const ORDER_CANCELLED: &str = include_str!("../../../events/orders.OrderCancelled.v1.schema.json");
const PRODUCT_CREATED: &str = include_str!("../../../events/products.ProductCreated.v1.schema.json");

/// An SMTP server.
#[derive(Clone, Default)]
struct Sink {
    mails: Arc<Mutex<Vec<String>>>,
    /// The mails to refuse before it accepts one.
    refusals: Arc<Mutex<usize>>,
}

impl Sink {
    async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(self.clone().receive(connection));
            }
        });
        url
    }

    async fn receive(self, connection: TcpStream) -> Option<()> {
        let (read, mut write) = connection.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut mail: Option<String> = None;
        write.write_all(b"220 sink\r\n").await.ok()?;
        while let Some(line) = lines.next_line().await.ok()? {
            let response = match &mut mail {
                Some(text) if line == "." => {
                    let accepted = self.accept(std::mem::take(text));
                    mail = None;
                    if accepted { "250 ok" } else { "451 not now" }
                }
                Some(text) => {
                    text.push_str(&line);
                    text.push('\n');
                    continue;
                }
                None if line == "DATA" => {
                    mail = Some(String::new());
                    "354 go on"
                }
                None => "250 ok",
            };
            write.write_all(format!("{response}\r\n").as_bytes()).await.ok()?;
        }
        Some(())
    }

    fn accept(&self, mail: String) -> bool {
        let mut refusals = self.refusals.lock().unwrap();
        let accepts = *refusals == 0;
        *refusals = refusals.saturating_sub(1);
        if accepts {
            self.mails.lock().unwrap().push(mail);
        }
        accepts
    }
}

/// Two mailers with one queue and one database.
async fn mailers(sink: &Sink) -> ([Mailer; 2], PostgresDatabase) {
    let aws = sqs::embedded().await;
    let sqs = Client::new(&aws);
    // Without a pause before the next delivery.
    let created = sqs.create_queue().queue_name("mails").attributes(QueueAttributeName::VisibilityTimeout, "1");
    let queue_url = created.send().await.unwrap().queue_url.unwrap();
    let (database, smtp_url) = (postgres::database().await, sink.clone().serve().await);
    let mailer = async || Mailer {
        sqs: sqs.clone(),
        queue_url: queue_url.clone(),
        db: Database::connect(&database.url).await.unwrap(),
        smtp: AsyncSmtpTransport::from_url(&smtp_url).unwrap().build(),
        from: "Shop <shop@example.com>".parse().unwrap(),
    };
    let mailers = [mailer().await, mailer().await];
    mailers[0].create_table().await.unwrap();
    (mailers, database)
}

/// The example of a schema.
fn example(schema: &str) -> Value {
    serde_json::from_str::<Value>(schema).unwrap()["examples"][0].clone()
}

async fn send(mailer: &Mailer, message: &Value) {
    mailer.sqs.send_message().queue_url(&mailer.queue_url).message_body(message.to_string()).send().await.unwrap();
}

async fn run_until_empty(mailers: &[Mailer; 2], messages: usize) {
    let mut finished = 0;
    until("all messages are processed", async || {
        let (one, other) = tokio::join!(mailers[0].run_once(), mailers[1].run_once());
        finished += one.unwrap() + other.unwrap();
        finished >= messages
    })
    .await;
}

#[tokio::test]
async fn each_order_is_confirmed_once_however_often_its_event_arrives() {
    let sink = Sink::default();
    let (mailers, _database) = mailers(&sink).await;
    let mut second = example(ORDER_PLACED);
    (second["sequence"], second["data"]["clientEmail"]) = ("0000000008".into(), "new@example.com".into());
    let mut future = example(ORDER_PLACED);
    (future["type"], future["data"]) = ("orders.OrderPlaced.v2".into(), Value::Null);
    let messages = [example(ORDER_CANCELLED), example(PRODUCT_CREATED), future, second];
    for message in &messages {
        send(&mailers[0], message).await;
    }
    for _ in 0..10 {
        send(&mailers[0], &example(ORDER_PLACED)).await;
    }
    run_until_empty(&mailers, 14).await;
    let mut mails = sink.mails.lock().unwrap().clone();
    mails.sort_by_key(|mail| mail.contains("new@example.com"));
    assert_eq!(mails.len(), 2, "{mails:?}");
    let expected =
        ["To: Bob <bob@anemailprovider.com>", "3 x Phone", "Message-ID: <01936d2f-5b40-7c1e-9d2a-6f0b4c8e1a35@orders>"];
    assert!(expected.iter().all(|part| mails[0].contains(part)), "{}", mails[0]);
}

#[tokio::test]
async fn a_mail_that_is_refused_is_sent_later() {
    let sink = Sink::default();
    *sink.refusals.lock().unwrap() = 2;
    let (mailers, _database) = mailers(&sink).await;
    send(&mailers[0], &example(ORDER_PLACED)).await;
    run_until_empty(&mailers, 1).await;
    assert_eq!(sink.mails.lock().unwrap().len(), 1);
}
