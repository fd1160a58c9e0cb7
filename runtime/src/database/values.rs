//! Conditions on many values.

use sea_orm::sea_query::Expr;
use sea_orm::sea_query::postgres_array::NotU8;
use sea_orm::{ColumnTrait, ConnectionTrait, DbBackend, Value};

/// Whether a column has one of some values. On PostgreSQL the values are one parameter: the text of the statement does not depend on
/// their number, so PostgreSQL parses and plans it once, and does not plan a long list as a scan of the whole table.
pub fn is_one_of<V: Into<Value> + NotU8>(
    db: &impl ConnectionTrait,
    column: impl ColumnTrait,
    values: impl IntoIterator<Item = V>,
) -> Expr {
    match db.get_database_backend() {
        DbBackend::Postgres => column.eq_any(values),
        _ => column.is_in(values),
    }
}
