//! Orders that are accepted although the database is away: a queue of its own keeps them until they can be placed.
//!
//! An order has an idempotency key, so it is placed once, however often its message is delivered and whether it was also placed
//! directly. An order without a result stays in the queue: after pauses that double, it is delivered again.

use std::time::Duration;

use anyhow::Context;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use backon::BackoffBuilder;
use entity::event::MAX_LINES;
use entity::{Event, OrderPlaced, rejected_order};
use futures::{StreamExt, stream};
use iso_currency::Currency;
use runtime::{one_line, queue};
use sea_orm::sea_query::OnConflict;
use sea_orm::{DatabaseConnection, DbErr, EntityTrait};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::commands::place_order::batcher::OrderQueue;
use crate::commands::place_order::{Outcome, PlaceOrder, placed_with_key};
use crate::commands::idempotency::is_valid_key;
use crate::commands::{Error, Rejection, as_new};
use crate::outbox::BACKOFF;

/// How long a receive call waits for a message: the longest time that SQS allows.
const WAIT: Duration = Duration::from_secs(20);
/// Limit for a call to SQS, without that wait.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a receive call without messages: some servers do not wait.
const IDLE_PAUSE: Duration = Duration::from_millis(100);
/// Orders that are placed at once: those of one receive call.
const MAX_MESSAGES: i32 = 10;
/// Longest pause until a message is delivered again.
const MAX_PAUSE: Duration = Duration::from_secs(900);
/// How long a database may take to show that it responds.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an order is tried before it is accepted. It may be placed although it took longer.
const PLACE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Intake {
    client: Client,
    long_polling: Client,
    url: String,
}

/// The state of an accepted order.
pub enum RequestState {
    /// No result yet.
    Pending,
    Placed(Event<OrderPlaced>),
    Rejected(Vec<Rejection>),
}

impl Intake {
    pub fn new(aws: &SdkConfig, url: String) -> Intake {
        Intake::of(&Client::new(aws), url)
    }

    /// With a client of SQS that exists.
    pub fn of(client: &Client, url: String) -> Intake {
        let with_limit = |limit| {
            let limit = TimeoutConfig::builder().operation_timeout(limit).build();
            Client::from_conf(client.config().to_builder().timeout_config(limit).build())
        };
        Intake { client: with_limit(CALL_TIMEOUT), long_polling: with_limit(WAIT + CALL_TIMEOUT), url }
    }

    /// # Errors
    /// When the queue cannot be used; the error says how to fix it.
    pub async fn check(&self) -> anyhow::Result<()> {
        queue::attributes(&self.client, &self.url).await.context("INTAKE_QUEUE_URL")?;
        Ok(())
    }

    async fn accept(&self, order: &PlaceOrder) -> Result<(), String> {
        let message = serde_json::to_string(order).expect("texts and numbers always serialise");
        let sent = self.client.send_message().queue_url(&self.url).message_body(message).send().await;
        sent.map(drop).map_err(|error| one_line(&error))
    }

    /// Places an order now if the database can take it in time, or else accepts it: then it has no outcome yet.
    ///
    /// # Errors
    /// When it can neither be placed nor accepted. It may have been placed.
    pub async fn place_or_accept(
        &self,
        orders: &OrderQueue,
        is_database_up: bool,
        order: PlaceOrder,
    ) -> Result<Option<Outcome>, Error> {
        let placing = async {
            if is_database_up { orders.place(order.clone()).await } else { Err(Error::Unavailable) }
        };
        let error = match timeout(PLACE_TIMEOUT, placing).await {
            Ok(Ok(outcome)) => return Ok(Some(outcome)),
            Ok(Err(error)) => error,
            Err(_) => Error::Unavailable,
        };
        if matches!(error, Error::Internal(_)) || !can_wait(&order) {
            return Err(error);
        }
        match self.accept(&order).await {
            Ok(()) => Ok(None),
            Err(reason) => {
                warn!("an order can neither be placed nor accepted: {reason}");
                Err(error)
            }
        }
    }

    /// Places accepted orders until `shutdown`. While the database does not respond, it receives none, so that no delivery counts.
    pub async fn run(self, db: DatabaseConnection, orders: OrderQueue, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.place_all(db, orders)).await;
    }

    async fn place_all(&self, db: DatabaseConnection, orders: OrderQueue) {
        let mut pauses = BACKOFF.build();
        loop {
            let is_up = timeout(PING_TIMEOUT, db.ping()).await.is_ok_and(|ping| ping.is_ok());
            let received = if is_up { self.receive().await } else { Ok(None) };
            match received {
                Ok(Some(messages)) => {
                    pauses = BACKOFF.build();
                    if messages.is_empty() {
                        sleep(IDLE_PAUSE).await;
                    }
                    let handling = stream::iter(messages).map(|message| self.handle(message, &db, &orders));
                    handling.buffer_unordered(MAX_MESSAGES as usize).collect::<()>().await;
                }
                Ok(None) => sleep(pauses.next().unwrap_or(WAIT)).await,
                Err(error) => {
                    warn!("cannot receive accepted orders; they stay in the queue: {error}");
                    sleep(pauses.next().unwrap_or(WAIT)).await;
                }
            }
        }
    }

    async fn receive(&self) -> Result<Option<Vec<Message>>, String> {
        let receive = self.long_polling.receive_message().queue_url(&self.url).max_number_of_messages(MAX_MESSAGES);
        let receive = receive.wait_time_seconds(WAIT.as_secs() as i32);
        let receive = receive.message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount);
        let received = receive.send().await.map_err(|error| one_line(&error))?;
        Ok(Some(received.messages.unwrap_or_default()))
    }

    /// Places an order, and deletes its message when it has a result.
    async fn handle(&self, message: Message, db: &DatabaseConnection, orders: &OrderQueue) {
        let order = match serde_json::from_str::<PlaceOrder>(message.body().unwrap_or_default()) {
            Ok(order) => order,
            Err(error) => return error!("a message is no order; it is left for the dead-letter queue: {error}"),
        };
        let receipt = message.receipt_handle().unwrap_or_default();
        let handled = if place(order, db, orders).await {
            let delete = self.client.delete_message().queue_url(&self.url).receipt_handle(receipt);
            delete.send().await.map(drop).map_err(|error| one_line(&error))
        } else {
            let retry = self.client.change_message_visibility().queue_url(&self.url).receipt_handle(receipt);
            let retry = retry.visibility_timeout(pause_after(receives(&message)).as_secs() as i32);
            retry.send().await.map(drop).map_err(|error| one_line(&error))
        };
        if let Err(error) = handled {
            warn!("an accepted order is delivered again: {error}");
        }
    }
}

/// Whether an order may be valid. The rules refuse the others at any time.
fn can_wait(order: &PlaceOrder) -> bool {
    let has_key = order.idempotency_key.as_deref().is_some_and(is_valid_key);
    has_key && order.client_id.is_some() && (1..=MAX_LINES).contains(&order.items.len())
}

fn receives(message: &Message) -> u32 {
    let count = message.attributes().and_then(|all| all.get(&MessageSystemAttributeName::ApproximateReceiveCount));
    count.and_then(|count| count.parse().ok()).unwrap_or(1)
}

/// 1 s after the first delivery, and then twice as long each time.
fn pause_after(receives: u32) -> Duration {
    MAX_PAUSE.min(Duration::from_secs(1 << receives.saturating_sub(1).min(10)))
}

/// Whether the order has a result now.
async fn place(order: PlaceOrder, db: &DatabaseConnection, orders: &OrderQueue) -> bool {
    let (Some(client), Some(key)) = (order.client_id, order.idempotency_key.clone()) else { return true };
    match rejections(db, client, &key).await {
        Ok(None) => {}
        Ok(Some(_)) => return true,
        Err(_) => return false,
    }
    match orders.place(order).await {
        Ok(Outcome::Placed(_) | Outcome::Replayed(_)) => true,
        Ok(Outcome::Rejected(rejections)) => reject(db, client, key, &rejections).await.is_ok(),
        Err(error) => {
            warn!("an accepted order is not placed yet: {error}");
            false
        }
    }
}

async fn reject(
    db: &DatabaseConnection,
    client_id: i64,
    key: String,
    rejections: &[Rejection],
) -> Result<(), DbErr> {
    let reasons = serde_json::to_value(rejections).expect("numbers and names always serialise");
    let row = as_new(rejected_order::Model { client_id, key, reasons });
    let insert = rejected_order::Entity::insert(row).on_conflict(OnConflict::new().do_nothing().to_owned());
    insert.exec_without_returning(db).await.map(drop)
}

async fn rejections(db: &DatabaseConnection, client: i64, key: &str) -> Result<Option<Vec<Rejection>>, DbErr> {
    let row = rejected_order::Entity::find_by_id((client, key.to_owned())).one(db).await?;
    let damaged = |error| DbErr::Custom(format!("the rejection of an order of client {client}: {error}"));
    row.map(|row| serde_json::from_value(row.reasons).map_err(damaged)).transpose()
}

/// The state of the order with this key. Nobody knows whether an order without a result was accepted: only its message shows it.
///
/// # Errors
/// When the database fails.
pub async fn state(
    db: &DatabaseConnection,
    currency: Currency,
    client: i64,
    key: &str,
) -> Result<RequestState, DbErr> {
    if let Some(event) = placed_with_key(db, currency, client, key).await? {
        return Ok(RequestState::Placed(event));
    }
    Ok(rejections(db, client, key).await?.map_or(RequestState::Pending, RequestState::Rejected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_15_minutes() {
        let pauses: Vec<u64> = [1, 2, 3, 10, 11, 12, 99].map(|receives| pause_after(receives).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 512, 900, 900, 900]);
    }
}
