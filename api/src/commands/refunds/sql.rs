//! The statements that cancel and refund orders.

use chrono::{DateTime, Utc};
use entity::event::{ORDER_CANCELLED, ORDER_REFUNDED};
use entity::{Event, Line, OrderPlaced, Refund, Subject, client, order, order_event, order_refund, order_refund_item};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};
use uuid::Uuid;

use super::RefundOrder;
use super::rules::LockedOrder;
use crate::commands::clients::raise_version;
use crate::commands::clock::{Timed, timed};
use crate::commands::{Origin, as_new, new_event};
use crate::orders::StoredOrder;
use runtime::database::is_one_of;

/// What never changes of an order.
pub struct FoundOrder {
    pub id: Uuid,
    pub client: i64,
    pub placed_at: DateTime<Utc>,
}

/// Finds the order. `None` if there is no such order, or not for the sender.
pub async fn find_order(db: &impl ConnectionTrait, command: &RefundOrder) -> Result<Option<FoundOrder>, DbErr> {
    let Some(id) = command.order_id else { return Ok(None) };
    let found = order::Entity::find_by_id(id).one(db).await?;
    let found = found.map(|order| FoundOrder { id, client: order.client_id, placed_at: order.placed_at });
    Ok(found.filter(|order| command.only_client.is_none_or(|only| only == order.client)))
}

/// Locks the client of an order. Other requests may have changed the order before, so read it after this.
pub async fn lock_client(db: &impl ConnectionTrait, id: i64) -> Result<Option<Timed<client::Model>>, DbErr> {
    timed(db, client::Entity::find_by_id(id).lock_exclusive()).one(db).await
}

/// Reads what else the rules need to know of an order.
pub async fn with_refunds(
    db: &impl ConnectionTrait,
    order: StoredOrder,
    client: client::Model,
) -> Result<LockedOrder, DbErr> {
    use order_refund::Column;
    let id = order.placed.data.order_id;
    let of_order = order_refund::Entity::find().filter(Column::OrderId.eq(id)).select_only();
    if order.cancelled_at.is_some() {
        let cancellation = of_order.filter(Column::Cancels.eq(true)).column(Column::Version).into_tuple::<i32>();
        let cancelled_version = cancellation.one(db).await?;
        if cancelled_version.is_none() {
            return Err(DbErr::Custom(format!("order {id} is damaged: it is cancelled without a refund")));
        }
        return Ok(LockedOrder { order, client, cancelled_version, refunds: 0, left: Vec::new() });
    }
    let refunds: Vec<Uuid> = of_order.column(Column::Id).into_tuple().all(db).await?;
    let left = left_of_lines(db, &order, &refunds).await?;
    Ok(LockedOrder { order, client, cancelled_version: None, refunds: refunds.len(), left })
}

/// The part of each line that is not refunded.
async fn left_of_lines(db: &impl ConnectionTrait, order: &StoredOrder, refunds: &[Uuid]) -> Result<Vec<i64>, DbErr> {
    use order_refund_item::{Column, Entity};
    let OrderPlaced { order_id, lines, .. } = &order.placed.data;
    let totals: Option<Vec<i64>> = lines.iter().map(Line::total).collect();
    let mut left =
        totals.ok_or_else(|| DbErr::Custom(format!("order {order_id} is damaged: the total of a line overflows")))?;
    if refunds.is_empty() {
        return Ok(left);
    }
    let sums = Entity::find()
        .filter(is_one_of(db, Column::RefundId, refunds.iter().copied()))
        .select_only()
        .column(Column::Line)
        .column_as(Column::Amount.sum().cast_as("bigint"), "refunded")
        .group_by(Column::Line)
        .into_tuple::<(i32, i64)>();
    for (line, refunded) in sums.all(db).await? {
        if let Some(left) = usize::try_from(line).ok().and_then(|line| left.get_mut(line)) {
            *left -= refunded;
        }
    }
    Ok(left)
}

/// Changes the order, inserts the refund, and raises the client's version. Returns the event.
pub async fn write(
    db: &impl ConnectionTrait,
    event: &Event<Refund>,
    cancels: bool,
    origin: Origin,
) -> Result<order_event::Model, DbErr> {
    let Refund { order: placed, amount, reason, .. } = &event.data;
    let refunded = Expr::col(order::Column::Refunded).add(*amount);
    let mut update = order::Entity::update_many().col_expr(order::Column::Refunded, refunded);
    if cancels {
        update = update
            .col_expr(order::Column::CancelledAt, Expr::val(event.time))
            .col_expr(order::Column::CancelReason, Expr::val(reason.clone()));
    }
    update.filter(order::Column::Id.eq(placed.order_id)).exec(db).await?;
    let refund = order_refund::Model {
        id: event.id,
        order_id: placed.order_id,
        client_id: placed.client_id,
        version: event.version,
        refunded_at: event.time,
        amount: *amount,
        cancels,
    };
    order_refund::Entity::insert(as_new(refund)).exec_without_returning(db).await?;
    let items = items(event, cancels).into_iter().map(as_new);
    order_refund_item::Entity::insert_many(items).exec_without_returning(db).await?;
    raise_version(db, placed.client_id, event.version).await?;
    let r#type = if cancels { ORDER_CANCELLED } else { ORDER_REFUNDED };
    let subject = Subject::Client(placed.client_id);
    Ok(new_event(event.id, r#type, subject, event.version, &event.data, event.time, origin))
}

/// Without the lines of which nothing is refunded.
fn items(event: &Event<Refund>, cancels: bool) -> Vec<order_refund_item::Model> {
    let lines = (0..).zip(event.data.order.lines.iter().zip(&event.data.amounts));
    let item = |(line, (Line { product_id, quantity, .. }, amount)): (i32, (&Line, &i64))| order_refund_item::Model {
        refund_id: event.id,
        line,
        product_id: *product_id,
        quantity: if cancels { *quantity } else { 0 },
        amount: *amount,
    };
    lines.map(item).filter(|item| item.quantity > 0 || item.amount > 0).collect()
}
