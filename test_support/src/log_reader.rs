//! A reader of the write-ahead log of PostgreSQL. It stands for Debezium: both read the insertions into `outbox_messages` with the plugin
//! `pgoutput`, and confirm what they have sent.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, QueryResult, Statement};

/// A row that was inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub r#type: String,
    pub payload: String,
}

/// Messages, in the sequence in which their transactions were committed.
#[derive(Debug, Default)]
pub struct Changes {
    pub messages: Vec<Message>,
    /// The end of the last transaction.
    position: Option<String>,
}

/// Creates the publication and the slot of docs/log-tailing.md.
pub async fn create_slot(db: &DatabaseConnection) {
    for statement in [
        "CREATE PUBLICATION orders_outbox FOR TABLE outbox_messages WITH (publish = 'insert')",
        "SELECT pg_create_logical_replication_slot('orders_outbox', 'pgoutput')",
    ] {
        db.execute_unprepared(statement).await.unwrap();
    }
}

/// Reads what is not confirmed. A reader that stops now reads it again.
pub async fn read(db: &DatabaseConnection) -> Changes {
    let sql = "SELECT lsn::text AS lsn, data FROM pg_logical_slot_peek_binary_changes('orders_outbox', NULL, NULL,
        'proto_version', '1', 'publication_names', 'orders_outbox')";
    let rows = db.query_all_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
    let data = |row: &QueryResult| row.try_get::<Vec<u8>>("", "data").unwrap();
    Changes {
        messages: rows.iter().map(data).filter(|data| data[0] == b'I').map(|data| message(&data)).collect(),
        position: rows.last().map(|row| row.try_get("", "lsn").unwrap()),
    }
}

/// Confirms changes, so that they are not read again and PostgreSQL can remove their part of the log.
pub async fn confirm(db: &DatabaseConnection, changes: &Changes) {
    if let Some(position) = &changes.position {
        let advance = format!("SELECT pg_replication_slot_advance('orders_outbox', '{position}')");
        db.execute_unprepared(&advance).await.unwrap();
    }
}

/// <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html#PROTOCOL-LOGICALREP-MESSAGE-FORMATS-INSERT>: `I`, the
/// id of the table, `N`, the number of columns; then for each column `t`, the length of its text, and the text.
fn message(insert: &[u8]) -> Message {
    let mut rest = &insert[8..];
    let mut column = || {
        let (length, text) = rest[1..].split_at(4);
        let (text, others) = text.split_at(u32::from_be_bytes(length.try_into().unwrap()) as usize);
        rest = others;
        String::from_utf8(text.to_vec()).unwrap()
    };
    Message {
        id: column(),
        aggregate_type: column(),
        aggregate_id: column(),
        r#type: column(),
        payload: column(),
    }
}
