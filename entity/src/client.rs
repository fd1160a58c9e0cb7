use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "clients")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub name: String,
    #[sea_orm(unique)]
    pub email: String,
    /// The version of the client's newest event.
    pub version: i32,
    /// When its personal data were masked. Then it can have no new orders.
    pub forgotten_at: Option<DateTimeUtc>,
}

impl ActiveModelBehavior for ActiveModel {}
