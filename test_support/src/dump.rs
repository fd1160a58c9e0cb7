//! Everything that a store holds, as text.

use redis::{AsyncConnectionConfig, Client, Value};
use sea_orm::{ConnectionTrait, DatabaseConnection};

use crate::services::sql;

/// All rows of all tables of a PostgreSQL database.
pub async fn postgres(db: &DatabaseConnection) -> String {
    let tables = "SELECT table_name::text AS name FROM information_schema.tables WHERE table_schema = 'public'";
    let mut dump = String::new();
    for table in db.query_all_raw(sql(tables)).await.unwrap() {
        let table: String = table.try_get("", "name").unwrap();
        let rows = format!("SELECT coalesce(string_agg(row::text, ' '), '') AS rows FROM {table} AS row");
        let rows: String = db.query_one_raw(sql(&rows)).await.unwrap().unwrap().try_get("", "rows").unwrap();
        dump += &rows;
    }
    dump
}

/// All keys and values of a Redis.
pub async fn redis(client: &Client) -> String {
    let without_time_limit = AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&without_time_limit).await;
    let (mut connection, mut dump) = (connection.unwrap(), String::new());
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut connection).await.unwrap();
        let read = match &*kind {
            "hash" => redis::cmd("HGETALL").arg(&key).clone(),
            "zset" => redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1).clone(),
            "set" => redis::cmd("SMEMBERS").arg(&key).clone(),
            "list" => redis::cmd("LRANGE").arg(&key).arg(0).arg(-1).clone(),
            "string" => redis::cmd("GET").arg(&key).clone(),
            // It has expired or was deleted meanwhile.
            "none" => continue,
            other => panic!("{key} is a {other}"),
        };
        let value: Value = read.query_async(&mut connection).await.unwrap();
        dump += &format!("{key} {}", text(&value));
    }
    dump
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned() + " ",
        Value::Array(values) | Value::Set(values) => values.iter().map(text).collect(),
        Value::Map(pairs) => pairs.iter().map(|(key, value)| text(key) + &text(value)).collect(),
        other => format!("{other:?} "),
    }
}
