//! Reads the newest orders of clients from the database, which their recent orders in the read model must be.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use entity::order::{self, Column};
use read_model::OrderSummary;
use read_model::rules::recent_orders::RECENT_ORDERS;
use runtime::database::is_one_of;
use sea_orm::sea_query::{Asterisk, Expr, ExprTrait, Query};
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QueryResult, QuerySelect, QueryTrait, Statement, Value,
};
use uuid::Uuid;

use super::{StoreFailed, Verifier, database};

/// What is compared of a recent order: its id, its time (ms since 1970), its total (minor units) and the number of its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecentOrder(Uuid, i64, i64, i64);

/// By version.
pub(super) type RecentOrders = BTreeMap<i32, RecentOrder>;

impl From<&OrderSummary> for RecentOrder {
    fn from(order: &OrderSummary) -> RecentOrder {
        RecentOrder(order.order_id, order.time.timestamp_millis(), order.total, order.lines.into())
    }
}

/// The newest orders of each of these clients: a few rows of an index for each client, however many orders it has. The lines are
/// counted afterwards, so that only those of the newest orders are read.
const NEWEST: &str = "
    SELECT newest.*, (SELECT COUNT(*) FROM order_items WHERE order_id = newest.id) AS lines
    FROM unnest($1) AS compared (client) CROSS JOIN LATERAL
        (SELECT client_id, version, id, placed_at, total FROM orders WHERE client_id = client ORDER BY id DESC LIMIT $2)
        AS newest";
/// The lines of an order among the newest ones.
const LINES: &str = "(SELECT COUNT(*) FROM order_items WHERE order_id = numbered.id)";

impl Verifier {
    /// The newest orders of these clients. On PostgreSQL those with the largest ids: when the clocks of several processes differ, the
    /// sequence of ids may differ from that of versions. So a client whose recent orders are others is examined before it is
    /// reported.
    pub(super) async fn newest_orders_of_clients(
        &self,
        clients: &[i64],
    ) -> Result<HashMap<i64, RecentOrders>, StoreFailed> {
        let backend = self.db.get_database_backend();
        if backend != DbBackend::Postgres {
            return self.newest_orders(is_one_of(&self.db, Column::ClientId, clients.iter().copied())).await;
        }
        let values: [Value; 2] = [clients.to_vec().into(), (RECENT_ORDERS as i64).into()];
        let newest = self.db.query_all_raw(Statement::from_sql_and_values(backend, NEWEST, values)).await;
        by_client(newest.map_err(database)?)
    }

    /// The newest orders of each client among the orders of this condition, as many as the read model stores at most.
    pub(super) async fn newest_orders(&self, orders: Expr) -> Result<HashMap<i64, RecentOrders>, StoreFailed> {
        let place = Expr::cust("ROW_NUMBER() OVER (PARTITION BY client_id ORDER BY version DESC)");
        let columns = [Column::ClientId, Column::Version, Column::Id, Column::PlacedAt, Column::Total];
        let all = order::Entity::find().select_only().columns(columns).expr_as(place, "place").filter(orders);
        let newest = Query::select()
            .column(Asterisk)
            .expr_as(Expr::cust(LINES), "lines")
            .from_subquery(all.into_query(), "numbered")
            .and_where(Expr::col("place").lte(RECENT_ORDERS as i64))
            .take();
        by_client(self.db.query_all(&newest).await.map_err(database)?)
    }
}

fn by_client(rows: Vec<QueryResult>) -> Result<HashMap<i64, RecentOrders>, StoreFailed> {
    let mut clients: HashMap<i64, RecentOrders> = HashMap::new();
    for row in rows {
        let (client, version, order) = read(&row).map_err(database)?;
        clients.entry(client).or_default().insert(version, order);
    }
    Ok(clients)
}

fn read(row: &QueryResult) -> Result<(i64, i32, RecentOrder), DbErr> {
    let placed_at: DateTime<Utc> = row.try_get("", "placed_at")?;
    let (id, total, lines) = (row.try_get("", "id")?, row.try_get("", "total")?, row.try_get("", "lines")?);
    let order = RecentOrder(id, placed_at.timestamp_millis(), total, lines);
    Ok((row.try_get("", "client_id")?, row.try_get("", "version")?, order))
}
