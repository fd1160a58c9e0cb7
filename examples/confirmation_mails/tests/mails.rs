//! Two mailers with one queue, one database and an SMTP server that keeps the mails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use confirmation_mails::Mailer;
use lettre::{AsyncSmtpTransport, Tokio1Executor};
use sea_orm::Database;
use serde_json::Value;
use test_support::{postgres, sqs, until};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const ORDER_PLACED: &str = include_str!("../../../events/orders.OrderPlaced.v1.schema.json");
const ORDER_CANCELLED: &str = include_str!("../../../events/orders.OrderCancelled.v1.schema.json");
const PRODUCT_CREATED: &str = include_str!("../../../events/products.ProductCreated.v1.schema.json");

/// An SMTP server that refuses the first mails.
#[derive(Clone)]
struct Sink {
    mails: Arc<Mutex<Vec<String>>>,
    /// How many mails it still refuses.
    refusals: Arc<AtomicUsize>,
}

impl Sink {
    fn refusing(mails: usize) -> Sink {
        Sink { mails: Arc::default(), refusals: Arc::new(AtomicUsize::new(mails)) }
    }

    /// Serves until the test ends. Returns its URL.
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
                Some(_) if line == "." => self.accept(mail.take()?),
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

    fn accept(&self, mail: String) -> &'static str {
        if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return "451 not now";
        }
        self.mails.lock().unwrap().push(mail);
        "250 ok"
    }
}

/// The example of a schema.
fn example(schema: &str) -> Value {
    serde_json::from_str::<Value>(schema).unwrap()["examples"][0].clone()
}

/// An order of another event.
fn order(sequence: &str, name: &str, address: &str) -> Value {
    let mut order = example(ORDER_PLACED);
    order["sequence"] = sequence.into();
    (order["data"]["clientName"], order["data"]["clientEmail"]) = (name.into(), address.into());
    order
}

#[tokio::test]
async fn each_order_is_confirmed_once_however_often_its_event_arrives() {
    let sink = Sink::refusing(2);
    let (database, smtp_url) = (postgres::database().await, sink.clone().serve().await);
    let sqs = Client::new(&sqs::embedded().await);
    // A message that was not processed is soon delivered again.
    let created = sqs.create_queue().queue_name("mails").attributes(QueueAttributeName::VisibilityTimeout, "1");
    let queue_url = created.send().await.unwrap().queue_url.unwrap();

    let mut future = example(ORDER_PLACED);
    (future["type"], future["data"]) = ("orders.OrderPlaced.v2".into(), Value::Null);
    let mut events = vec![example(ORDER_CANCELLED), example(PRODUCT_CREATED), future];
    events.extend(vec![example(ORDER_PLACED); 10]);
    events.push(order("0000000008", "Jörg \"J\" Müller, Köln", "joerg@example.com"));
    let valid = events.len();
    // These are never processed, and stop no others.
    events.push(order("0000000009", "Eve\r\nBcc: all@example.com", "eve@example.com"));
    events.push(order("0000000010", "Eve", "eve@example.com>\r\nRCPT TO:<all@example.com"));
    for event in &events {
        sqs.send_message().queue_url(&queue_url).message_body(event.to_string()).send().await.unwrap();
    }

    let finished = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let mailer = Mailer {
            sqs: sqs.clone(),
            queue_url: queue_url.clone(),
            db: Database::connect(&database.url).await.unwrap(),
            smtp: AsyncSmtpTransport::<Tokio1Executor>::from_url(&smtp_url).unwrap().build(),
            from: "Shop <shop@example.com>".parse().unwrap(),
        };
        mailer.create_table().await.unwrap();
        let finished = finished.clone();
        tokio::spawn(async move {
            loop {
                finished.fetch_add(mailer.run_once().await.unwrap(), Ordering::SeqCst);
            }
        });
    }
    // A message that is finished late is delivered again and counted twice.
    let is_finished = async || finished.load(Ordering::SeqCst) >= valid && sink.mails.lock().unwrap().len() >= 2;
    until("all valid messages are finished", is_finished).await;

    let mut mails = sink.mails.lock().unwrap().clone();
    mails.sort_by_key(|mail| mail.contains("<joerg@example.com>"));
    assert_eq!(mails.len(), 2, "{mails:?}");
    let id = "<01936d2f-5b40-7c1e-9d2a-6f0b4c8e1a35@orders>";
    for part in ["To: Bob <bob@anemailprovider.com>", "3 x Phone", &format!("Message-ID: {id}")] {
        assert!(mails[0].contains(part), "{}", mails[0]);
    }
    assert!(mails[1].contains("<joerg@example.com>"), "{}", mails[1]);
}
