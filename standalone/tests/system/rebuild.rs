//! A rebuild of the read model while it is read and written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::crash_points::{REBUILD_BEFORE_REPLAY, REBUILD_BEFORE_SWITCH};
use serde_json::Value;
use test_support::process::Process;
use test_support::services::{Services, Stores};
use test_support::until;
use test_support::user::SAMPLE_ORDER;

/// While orders are placed, no client is ever missing, or older than the same api returned it before.
#[tokio::test(flavor = "multi_thread")]
async fn readers_never_notice_a_rebuild() {
    let services = tokio::task::spawn_blocking(|| {
        let mut stores = Stores::prepared();
        stores.set("SWEEP_INTERVAL", "1h"); // nothing else repairs the read model
        Services::start_on(stores, 2)
    })
    .await
    .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for n in 0..4 {
        let (user, stop) = (services.users[n % 2].clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                user.place(&(n % 3 + 1).to_string(), &SAMPLE_ORDER, None).await;
            }
        }));
    }
    for id in 1..=3 {
        services.users[0].client_at(&id.to_string(), 1).await;
    }
    for user in &services.users {
        let (user, stop) = (user.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            let mut before = vec![0; 3];
            while !stop.load(Ordering::Relaxed) {
                let response = user.graphql("{ clientsByIds(ids: [\"1\", \"2\", \"3\"]) { version } }").await;
                let versions = response["data"]["clientsByIds"].as_array().unwrap_or_else(|| panic!("{response}"));
                let versions: Vec<i64> =
                    versions.iter().map(|client| client["version"].as_i64().unwrap_or(0)).collect();
                assert!(
                    before.iter().zip(&versions).all(|(before, now)| before <= now),
                    "{before:?}, then {versions:?}"
                );
                before = versions;
            }
        }));
    }

    let run = |arguments: &[&str]| tokio::task::block_in_place(|| services.stores.run("projector", arguments));
    let live = || {
        let output = run(&["rebuild", "status"]);
        let live = output.lines().find(|line| line.contains(" live:")).unwrap();
        live.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    for point in [REBUILD_BEFORE_REPLAY, REBUILD_BEFORE_SWITCH] {
        let armed = format!("{point}=return");
        let variables = [&services.stores.variables()[..], &[("FAILPOINTS", &armed)]].concat();
        assert!(!Process::start("projector", &["rebuild", "start"], &variables).wait().success());
        assert_eq!(live(), 1);
    }
    let rebuild = |arguments: &[&str]| {
        let output = run(&[&["rebuild"], arguments, &["--json"]].concat());
        serde_json::from_str::<Value>(output.lines().last().unwrap()).unwrap()["generation"].as_u64().unwrap()
    };
    assert_eq!((rebuild(&["start"]), live()), (2, 2), "it continues the interrupted rebuild");
    assert_eq!(rebuild(&["rollback", "--yes"]), 1);
    assert_eq!((rebuild(&["rollback", "--yes"]), live()), (2, 2));
    assert_eq!((rebuild(&["start", "--keep", "0s"]), live()), (3, 3));
    // Two rebuilds at once.
    let both = std::thread::scope(|scope| {
        let rebuild = || services.stores.run("projector", &["rebuild", "start", "--keep", "0s", "--json"]);
        let both = [(); 2].map(|()| scope.spawn(rebuild));
        both.map(|one| one.join().unwrap())
    });
    assert!(both.iter().all(|one| one.lines().last().unwrap().contains("\"generation\":4")), "{both:?}");
    assert!(run(&["rebuild", "status"]).lines().count() > 1, "a retired generation stays for ten seconds");

    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    services.stores.until_nothing_differs().await;
    // The projectors remove retired generations by themselves.
    until("the retired generations are removed", async || run(&["rebuild", "status"]).lines().count() == 1).await;
    let mut redis = services.stores.redis_client().get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("orders:*client*").query_async(&mut redis).await.unwrap();
    assert!(keys.len() == 3 && keys.iter().all(|key| key.contains(":g4:")), "{keys:?}");
}
