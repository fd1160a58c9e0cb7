//! The statements that cancel and refund orders.

use entity::event::{ORDER_CANCELLED, ORDER_REFUNDED};
use entity::{Event, Line, Refund, Subject, client, order, order_event, order_refund, order_refund_item};
use iso_currency::Currency;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};
use uuid::Uuid;

use super::RefundOrder;
use super::rules::LockedOrder;
use crate::commands::clients::raise_version;
use crate::commands::clock::{Timed, timed};
use crate::commands::{Origin, as_new, new_event};
use crate::orders;
use runtime::database::is_one_of;

/// The ids of the order and of its client. `None` if there is no such order, or not for the sender.
pub async fn find_order(db: &impl ConnectionTrait, command: &RefundOrder) -> Result<Option<(Uuid, i64)>, DbErr> {
    let Some(id) = command.order_id else { return Ok(None) };
    let of_order = order::Entity::find_by_id(id).select_only().column(order::Column::ClientId);
    let client = of_order.into_tuple::<i64>().one(db).await?;
    let is_allowed = |client: &i64| command.only_client.is_none_or(|only| only == *client);
    Ok(client.filter(is_allowed).map(|client| (id, client)))
}

/// Locks the client of the order, and reads what the rules need to know. `None` if there is no such order.
pub async fn lock_order(
    db: &impl ConnectionTrait,
    currency: Currency,
    id: Uuid,
    client_id: i64,
) -> Result<Option<LockedOrder>, DbErr> {
    let client = timed(db, client::Entity::find_by_id(client_id).lock_exclusive()).one(db).await?;
    // Read under the lock: other requests may have changed the order meanwhile.
    let order = orders::order(db, id, currency).await?;
    let (Some(Timed { row: client, time: now }), Some(order)) = (client, order) else { return Ok(None) };
    let refunds = order_refund::Entity::find().filter(order_refund::Column::OrderId.eq(id)).all(db).await?;
    let totals: Option<Vec<i64>> = order.placed.data.lines.iter().map(Line::total).collect();
    let mut left =
        totals.ok_or_else(|| DbErr::Custom(format!("order {id} is damaged: the total of a line overflows")))?;
    if !refunds.is_empty() {
        let of_refunds = is_one_of(db, order_refund_item::Column::RefundId, refunds.iter().map(|refund| refund.id));
        for item in order_refund_item::Entity::find().filter(of_refunds).all(db).await? {
            if let Some(left) = usize::try_from(item.line).ok().and_then(|line| left.get_mut(line)) {
                *left -= item.amount;
            }
        }
    }
    let cancelled_version = refunds.iter().find(|refund| refund.cancels).map(|refund| refund.version);
    let refunds = refunds.iter().filter(|refund| !refund.cancels).count();
    Ok(Some(LockedOrder { order, client, now, refunds, cancelled_version, left }))
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
