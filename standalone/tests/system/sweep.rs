//! `projector sweep`, which runs beside the Lambda function.

use test_support::process::Process;
use test_support::services::{Services, Stores};

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_without_a_projector_applies_orders_whose_messages_nobody_applied() {
    let services = tokio::task::spawn_blocking(|| {
        let mut stores = Stores::prepared();
        stores.set("SWEEP_INTERVAL", "200ms");
        stores.set("IN_FLIGHT", "1s");
        let mut services = Services::start_on(stores, 1);
        services.projectors.clear();
        services
    })
    .await
    .unwrap();
    let (stores, user) = (&services.stores, &services.users[0]);
    let mut sweep = Process::start("projector", &["sweep"], &stores.variables());
    sweep.line_with("ready");

    let (_, version) = user.place("1", &[(1, 1)], None).await;
    let client = user.client_at("1", version).await;
    assert_eq!(client["orderCount"], 1, "{client}");
    assert!(tokio::task::block_in_place(|| sweep.terminate()).success());

    // Their messages arrive after all.
    let _projector = Process::start("projector", &[], &stores.variables());
    stores.until_nothing_differs().await;
    let client = user.client_at("1", version).await;
    assert_eq!(client["orderCount"], 1, "{client}");
}
