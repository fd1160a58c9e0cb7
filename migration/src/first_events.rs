//! The first event of clients and products that have none, and the currency of the log.

use chrono::{SubsecRound, Utc};
use sea_orm::{ConnectionTrait, DbErr};
use sea_orm_migration::prelude::*;
use serde_json::json;
use uuid::Uuid;

/// Rows of one statement: each has nine parameters, and a statement of SQLite has at most 32,766.
const ROWS: usize = 1_000;

/// Writes `ClientRegistered` or `ProductCreated` for each client and product of version 0, which is of version 1 then.
/// `currency` (ISO 4217) is that of the prices.
pub async fn write(db: &impl ConnectionTrait, currency: &str) -> Result<(), DbErr> {
    let without_events = |table: &'static str, columns: [&'static str; 3]| {
        let is_new = Expr::col("version").eq(0);
        Query::select().columns(columns).from(table).and_where(is_new).order_by("id", Order::Asc).to_owned()
    };
    let mut events = Vec::new();
    for row in db.query_all(&without_events("clients", ["id", "name", "email"])).await? {
        let (id, name, email): (i64, String, String) =
            (row.try_get("", "id")?, row.try_get("", "name")?, row.try_get("", "email")?);
        let data = json!({ "clientId": id, "clientName": name, "clientEmail": email });
        events.push((Some(id), None, "clients.ClientRegistered.v1", data));
    }
    for row in db.query_all(&without_events("products", ["id", "name", "price"])).await? {
        let (id, name, price): (i64, String, i64) =
            (row.try_get("", "id")?, row.try_get("", "name")?, row.try_get("", "price")?);
        let data = json!({ "productId": id, "name": name, "price": price, "currency": currency });
        events.push((None, Some(id), "products.ProductCreated.v1", data));
    }
    for events in events.chunks(ROWS) {
        let columns = ["id", "client_id", "product_id", "version", "type", "payload", "occurred_at"];
        let mut log = Query::insert().into_table("order_events").columns(columns).to_owned();
        let mut outbox = Query::insert().into_table("outbox").columns(["event_id"]).to_owned();
        for (client, product, r#type, data) in events {
            let (id, now) = (Uuid::now_v7(), Utc::now().trunc_subsecs(3));
            log.values_panic([
                id.into(),
                (*client).into(),
                (*product).into(),
                1.into(),
                (*r#type).into(),
                data.clone().into(),
                now.into(),
            ]);
            outbox.values_panic([id.into()]);
        }
        db.execute(&log).await?;
        db.execute(&outbox).await?;
    }
    for table in ["clients", "products"] {
        let raise = Query::update().table(table).value("version", 1).and_where(Expr::col("version").eq(0)).to_owned();
        db.execute(&raise).await?;
    }
    Ok(())
}

/// The currency of the newest event that has amounts.
pub async fn logged_currency(db: &impl ConnectionTrait) -> Result<Option<String>, DbErr> {
    let amounts = ["orders.OrderPlaced.v1", "products.ProductCreated.v1", "products.PriceChanged.v1"];
    let newest = Query::select()
        .column("payload")
        .from("order_events")
        .and_where(Expr::col("type").is_in(amounts))
        .order_by("id", Order::Desc)
        .limit(1)
        .to_owned();
    let payload: Option<serde_json::Value> =
        db.query_one(&newest).await?.map(|row| row.try_get("", "payload")).transpose()?;
    Ok(payload.and_then(|payload| Some(payload.get("currency")?.as_str()?.to_owned())))
}
