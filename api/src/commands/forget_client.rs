//! Forgetting clients: masks their name, their e-mail address, and other personal data, in their row and in the log.
//!
//! One transaction masks the row and the newest [`MASKED_AT_ONCE`] events, so that nobody sees a client that is forgotten in part. Older
//! events of a client with more of them are masked before, in transactions of their own: a single one would hold the lock of the
//! client for longer than an order waits. The request is checked before that. If masking takes longer than a request may, what was
//! masked stays masked, and the next request continues there.

use entity::event::CLIENT_FORGOTTEN;
use entity::{ClientChanged, Subject, client, order_event};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QuerySelect, Statement};
use serde_json::json;

use super::clients::client_of;
use super::clock::{Timed, timed};
use super::database::begin;
use super::idempotency::{self, Done, Scope, mask_keys};
use super::{Commands, Origin, Outcome, Rejection, id_at, new_event, next_version};

/// Events that the transaction of the change masks.
const MASKED_AT_ONCE: i32 = 10_000;
/// Events of one statement. Its time is limited.
const EVENTS_PER_STATEMENT: i32 = 2_000;
const MASKED_NAME: &str = "Forgotten client";

impl Commands {
    /// An `id` of `None` names no client. Forgetting a client again changes nothing.
    pub async fn forget_client(
        &self,
        id: Option<i64>,
        key: Option<&str>,
        origin: Origin,
    ) -> Outcome<Done<client::Model>> {
        let subject = Subject::Client(id.unwrap_or_default());
        let key = match idempotency::key(&Scope::Of(subject), key, "forgetClient") {
            Ok(key) => key,
            Err(rejection) => return Ok(Err(rejection.into())),
        };
        let Some(id) = id else { return Ok(Err(vec![Rejection::ClientNotFound])) };
        let _turn = self.turn(&subject).await;
        // The events up to this version are masked.
        let mut masked = 0;
        loop {
            let transaction = begin(&self.db).await?;
            // Orders of the client wait for the lock, and are rejected then.
            let locked = timed(&transaction, client::Entity::find_by_id(id).lock_exclusive()).one(&transaction).await?;
            let Some(Timed { row: client, time }) = locked else {
                return Ok(Err(vec![Rejection::ClientNotFound]));
            };
            let event_id = id_at(time);
            if let Some(earlier) = self.claim(&transaction, &key, &(), event_id).await? {
                return Ok(earlier.replay(client_of, |_| true));
            }
            if client.forgotten_at.is_some() {
                self.claim_unchanged(&transaction, &key, subject, client.version).await?;
                transaction.commit().await?;
                return Ok(Ok(Done { row: client, replayed: true }));
            }
            let version = match next_version(client.version) {
                Ok(version) => version,
                Err(rejection) => return Ok(Err(rejection.into())),
            };
            if client.version - masked > MASKED_AT_ONCE {
                transaction.rollback().await?;
                if masked == 0 {
                    masked = self.masked_before(id, client.version).await?;
                }
                // The other half is for the events that arrive meanwhile.
                let last = client.version - MASKED_AT_ONCE / 2;
                self.mask_older_events(id, masked, last).await?;
                masked = masked.max(last);
                continue;
            }
            mask_events(&transaction, id, masked, client.version).await?;
            let data = mask_of(id);
            let origin = origin.without_client();
            let event = new_event(event_id, CLIENT_FORGOTTEN, subject, version, &data, time, origin);
            let ClientChanged { client_name: name, client_email: email, .. } = data;
            let client = client::Model { name, email, version, forgotten_at: Some(event.occurred_at), ..client };
            mask_row(&transaction, &client).await?;
            mask_keys(&transaction, id, &key).await?;
            self.commit(transaction, event).await?;
            return Ok(Ok(Done::now(client)));
        }
    }

    /// The version up to which an earlier request, which was interrupted, has masked the events. It has masked them in the sequence of
    /// their versions.
    async fn masked_before(&self, id: i64, last: i32) -> Result<i32, DbErr> {
        let (mut masked, mut unmasked, mask) = (0, last, mask_of(id).client_email);
        while unmasked - masked > 1 {
            let middle = masked + (unmasked - masked) / 2;
            let event = order_event::Entity::find().filter(order_event::Column::ClientId.eq(id));
            let event = event.filter(order_event::Column::Version.eq(middle)).one(&self.db).await?;
            match event.is_none_or(|event| event.payload["clientEmail"] == mask) {
                true => masked = middle,
                false => unmasked = middle,
            }
        }
        Ok(masked)
    }

    /// Masks the events with versions above `after`, up to `last`, a transaction for each statement.
    async fn mask_older_events(&self, id: i64, after: i32, last: i32) -> Result<(), DbErr> {
        for (after, until) in statements(after, last) {
            let transaction = begin(&self.db).await?;
            mask_events(&transaction, id, after, until).await?;
            transaction.commit().await?;
        }
        Ok(())
    }
}

/// The client after the change. The domain `invalid` has no mail servers (RFC 2606), and nobody can register the address, because it
/// has no top-level domain.
fn mask_of(id: i64) -> ClientChanged {
    ClientChanged {
        client_id: id,
        client_name: MASKED_NAME.to_owned(),
        client_email: format!("forgotten-{id}@invalid"),
    }
}

/// Reasons are removed too, and the subjects of tokens that were limited to the client.
const ON_POSTGRES: &str = "UPDATE order_events SET payload = (payload || $1) - 'reason',
        actor = CASE WHEN actor_is_client THEN NULL ELSE actor END
    WHERE client_id = $2 AND version > $3 AND version <= $4 AND payload ->> 'clientEmail' <> $5";
const ON_SQLITE: &str = "UPDATE order_events SET payload = json_remove(json_patch(payload, $1), '$.reason'),
        actor = CASE WHEN actor_is_client THEN NULL ELSE actor END
    WHERE client_id = $2 AND version > $3 AND version <= $4 AND payload ->> 'clientEmail' <> $5";

/// The reasons of the cancellations with these versions.
const REASONS: &str = "UPDATE orders SET cancel_reason = NULL WHERE cancel_reason IS NOT NULL AND id IN
    (SELECT order_id FROM order_refunds WHERE client_id = $1 AND version > $2 AND version <= $3 AND cancels)";

/// The versions of each statement: above the first, up to the second.
fn statements(after: i32, last: i32) -> impl Iterator<Item = (i32, i32)> {
    let until = move |after: i32| after.saturating_add(EVENTS_PER_STATEMENT).min(last);
    (after..last).step_by(EVENTS_PER_STATEMENT as usize).map(move |after| (after, until(after)))
}

/// Masks the events with versions above `after`, up to `last`, and the reasons of their cancellations in the orders.
async fn mask_events(db: &impl ConnectionTrait, id: i64, after: i32, last: i32) -> Result<(), DbErr> {
    let backend = db.get_database_backend();
    let text = if backend == DbBackend::Postgres { ON_POSTGRES } else { ON_SQLITE };
    let ClientChanged { client_name, client_email, .. } = mask_of(id);
    let mask = json!({ "clientName": client_name, "clientEmail": client_email });
    for (after, until) in statements(after, last) {
        let values = [mask.clone().into(), id.into(), after.into(), until.into(), client_email.clone().into()];
        db.execute_raw(Statement::from_sql_and_values(backend, text, values)).await?;
        let values = [id.into(), after.into(), until.into()];
        db.execute_raw(Statement::from_sql_and_values(backend, REASONS, values)).await?;
    }
    Ok(())
}

async fn mask_row(db: &impl ConnectionTrait, client: &client::Model) -> Result<(), DbErr> {
    let update = client::Entity::update_many().filter(client::Column::Id.eq(client.id));
    update
        .col_expr(client::Column::Name, Expr::val(client.name.clone()))
        .col_expr(client::Column::Email, Expr::val(client.email.clone()))
        .col_expr(client::Column::Version, Expr::val(client.version))
        .col_expr(client::Column::ForgottenAt, Expr::val(client.forgotten_at))
        .exec(db)
        .await
        .map(drop)
}
