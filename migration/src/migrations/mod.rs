//! The changes of the schema. A migration names tables and columns itself: it must not change when an entity does.

mod m20261123_000001_create_tables;
mod m20261123_000002_seed;
mod m20261124_000003_index_orders_by_time;
mod m20261125_000004_events_of_clients_and_products;
mod m20261127_000005_outbox;
mod m20261127_000006_first_events;
mod m20261127_000007_refused_events;
mod m20261127_000008_store_settings;
mod m20261127_000009_room_for_versions;
mod m20261127_000010_refunds;
mod m20261127_000011_origin_and_idempotency;
mod m20261127_000012_products_and_search;
mod m20261127_000013_forgotten_clients;
mod m20261127_000014_outbox_by_time;
mod m20261127_000015_input_of_keys;
mod m20261127_000016_orders_of_clients_by_status;
mod m20261127_000017_orders_of_clients_by_version;
mod m20261128_000018_outbox_messages;
mod m20261128_000019_rejected_orders;

use sea_orm_migration::{MigrationTrait, MigratorTrait};

pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_create_tables::Migration),
            Box::new(m20261123_000002_seed::Migration),
            Box::new(m20261124_000003_index_orders_by_time::Migration),
            Box::new(m20261125_000004_events_of_clients_and_products::Migration),
            Box::new(m20261127_000005_outbox::Migration),
            Box::new(m20261127_000006_first_events::Migration),
            Box::new(m20261127_000007_refused_events::Migration),
            Box::new(m20261127_000008_store_settings::Migration),
            Box::new(m20261127_000009_room_for_versions::Migration),
            Box::new(m20261127_000010_refunds::Migration),
            Box::new(m20261127_000011_origin_and_idempotency::Migration),
            Box::new(m20261127_000012_products_and_search::Migration),
            Box::new(m20261127_000013_forgotten_clients::Migration),
            Box::new(m20261127_000014_outbox_by_time::Migration),
            Box::new(m20261127_000015_input_of_keys::Migration),
            Box::new(m20261127_000016_orders_of_clients_by_status::Migration),
            Box::new(m20261127_000017_orders_of_clients_by_version::Migration),
            Box::new(m20261128_000018_outbox_messages::Migration),
            Box::new(m20261128_000019_rejected_orders::Migration),
        ]
    }
}
