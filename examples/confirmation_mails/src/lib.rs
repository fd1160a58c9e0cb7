//! Sends a mail for each placed order: an example of a program with a queue of its own, to copy. docs/events.md has the rules for
//! readers.
//!
//! One transaction inserts the event into the table `mails`, sends the mail and commits. Another delivery of the event finds the row and
//! sends no mail. SMTP is not a part of the transaction: if the process or a connection fails after the mail is sent and before the
//! commit, the mail is sent again, with the same `Message-ID`.

use anyhow::{Context, ensure};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::Message as Delivery;
use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, Statement, TransactionTrait};
use serde::Deserialize;
use tracing::{info, warn};

/// Only one of several deliveries inserts the row, also if they happen at the same time. All orders are events of clients, so the row
/// needs no kind of subject.
const RECORD: &str = "INSERT INTO mails (subject, sequence) VALUES ($1, $2) ON CONFLICT DO NOTHING";

pub struct Mailer {
    pub sqs: Client,
    pub queue_url: String,
    pub db: DatabaseConnection,
    pub smtp: AsyncSmtpTransport<Tokio1Executor>,
    pub from: Mailbox,
}

/// The attributes that this program needs. It ignores all others.
#[derive(Deserialize)]
struct Event {
    id: String,
    r#type: String,
    subject: String,
    sequence: String,
    data: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderPlaced {
    client_name: String,
    client_email: String,
    order_id: String,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    name: String,
    quantity: i32,
}

impl Mailer {
    pub async fn create_table(&self) -> Result<(), DbErr> {
        let table = "CREATE TABLE IF NOT EXISTS mails (subject text, sequence text, PRIMARY KEY (subject, sequence))";
        self.db.execute_unprepared(table).await.map(drop)
    }

    /// Receives messages and processes them. Returns how many it has finished.
    pub async fn run_once(&self) -> anyhow::Result<usize> {
        let request = self.sqs.receive_message().queue_url(&self.queue_url).max_number_of_messages(10);
        let received = request.wait_time_seconds(5).send().await.context("cannot receive messages")?;
        let mut finished = 0;
        for message in received.messages.unwrap_or_default() {
            match self.finish(&message).await {
                Ok(()) => finished += 1,
                // It is delivered again, and after some deliveries it moves to the dead-letter queue.
                Err(error) => warn!(message_id = message.message_id(), "not processed: {error:#}"),
            }
        }
        Ok(finished)
    }

    async fn finish(&self, message: &Delivery) -> anyhow::Result<()> {
        self.process(message.body().unwrap_or_default()).await?;
        let request = self.sqs.delete_message().queue_url(&self.queue_url);
        let request = request.receipt_handle(message.receipt_handle().unwrap_or_default());
        request.send().await.context("cannot delete the message")?;
        Ok(())
    }

    async fn process(&self, body: &str) -> anyhow::Result<()> {
        let event: Event = serde_json::from_str(body)?;
        if event.r#type != "orders.OrderPlaced.v1" {
            return Ok(());
        }
        let mail = self.mail(&event.id, &serde_json::from_value(event.data)?)?;
        let transaction = self.db.begin().await?;
        let row = [event.subject.into(), event.sequence.into()];
        let record = Statement::from_sql_and_values(self.db.get_database_backend(), RECORD, row);
        if transaction.execute_raw(record).await?.rows_affected() == 1 {
            self.smtp.send(mail).await?;
            transaction.commit().await?;
            info!(event_id = event.id, "mail sent");
        }
        Ok(())
    }

    fn mail(&self, event_id: &str, order: &OrderPlaced) -> anyhow::Result<Message> {
        // lettre panics at such names, which the service does not accept.
        ensure!(!order.client_name.contains(char::is_control), "the name has control characters");
        let lines: String = order.lines.iter().map(|line| format!("{} x {}\n", line.quantity, line.name)).collect();
        let text = format!("Dear {},\n\nwe have received your order:\n\n{lines}", order.client_name);
        let mail = Message::builder().from(self.from.clone());
        let mail = mail.to(Mailbox::new(Some(order.client_name.clone()), order.client_email.parse()?));
        let mail = mail.message_id(Some(format!("<{event_id}@orders>")));
        Ok(mail.subject(format!("Your order {}", order.order_id)).body(text)?)
    }
}
