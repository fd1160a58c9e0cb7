//! Rebuilding the read model.

use crate::support::*;
use projector::rebuild::{self, Phase, Rebuild};
use projector::verify::Repair;
use read_model::generations::{REPORTS_FORMAT, TransitionError};
use read_model::reports;
use read_model::{Generations, Projection, Queries, Redis};
use sea_orm::ConnectionTrait;
use std::ops::ControlFlow;
use std::time::Duration;
use test_support::log::Log;
use tracing::Level;

#[tokio::test]
async fn a_rebuild_can_be_interrupted_continued_and_rolled_back() {
    let (_server, url, verifier) = verifier(Repair::RemoveOrphans).await;
    let rows: Vec<_> = (1..=3).flat_map(|client| (1..=4).map(move |version| row(client, version))).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    let fields = ["name", "x", "email", "x", "total", "150000", "orders", "1", "newest", "1", "version", "1"];
    command(&url, &[&["HSET", "orders:{p3}:g1:client:99"], &fields[..]].concat()).await;
    command(&url, &["HINCRBY", "orders:{p2}:g1:client:2", "total", "7"]).await;
    let redis = verifier.read_model.clone();
    let totals = async |redis: &Redis| {
        let clients = redis.clients(&[1, 2, 3, 99]).await.unwrap();
        clients.into_iter().map(|client| client.map_or(0, |client| client.total)).collect::<Vec<_>>()
    };
    let right = [600_000, 600_000, 600_000, 0];
    let wrong = [600_000, 600_007, 600_000, 150_000];
    let rebuild = Rebuild { verifier, keep: Duration::from_secs(60) };

    let all_replayed =
        |step| if step == Phase::Replayed(12) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let interrupted = rebuild.start(all_replayed).await.unwrap_err();
    assert!(interrupted.is::<rebuild::Interrupted>(), "{interrupted}");
    let building = redis.generations().await.unwrap().building().unwrap();
    assert_eq!(
        (totals(&redis).await, redis.pinned_to(building).rebuild_position().await.unwrap().is_some()),
        (wrong.to_vec(), true)
    );
    let mut progress = Vec::new();
    let generation = rebuild.start(|step| {
        progress.push(step);
        ControlFlow::Continue(())
    });
    assert_eq!(generation.await.unwrap(), building);
    assert!(progress.iter().all(|step| *step == Phase::Compared(3)), "the log had been replayed: {progress:?}");
    assert_eq!((totals(&redis).await, totals(&redis.pinned_to(1)).await), (right.to_vec(), wrong.to_vec()));

    // The previous generation still receives events, and is repaired before it becomes live again.
    let more = [row(1, 5)];
    place(&rebuild.verifier.db, &more, Outbox::Published).await;
    redis.apply(&events(&more)).await;
    // That also holds for a generation of an older release, which has no sums.
    let older = |generations: &mut Generations, _| {
        generations.generations.get_mut(&1).unwrap().format = REPORTS_FORMAT - 1;
    };
    redis.change_generations(older).await.unwrap();
    let other = rebuild.roll_back(building, |_| ControlFlow::Continue(())).await.unwrap_err();
    assert_eq!(other.to_string(), format!("the previous generation is now 1, not {building}"));
    rebuild.roll_back(1, |_| ControlFlow::Continue(())).await.unwrap();
    assert_eq!(redis.generations().await.unwrap().live(), 1);
    assert_eq!(totals(&redis).await, [750_000, 600_000, 600_000, 0]);
    assert!(!redis.has_reports().await.unwrap());
    let refused = reports::latest_orders(&redis, 10).await.unwrap_err();
    assert!(refused.to_string().contains("run `projector rebuild`"), "{refused}");

    // A continued generation in which only a sum is wrong is abandoned for a new one.
    let when_replayed = |step| match step {
        Phase::Replayed(_) => ControlFlow::Continue(()),
        Phase::Compared(_) => ControlFlow::Break(()),
    };
    assert!(rebuild.start(when_replayed).await.is_err());
    let building = redis.generations().await.unwrap().building().unwrap();
    assert!(
        redis.pinned_to(building).rebuild_position().await.unwrap().is_some(),
        "the log need not be replayed again"
    );
    command(&url, &["DEL", &format!("orders:{{p1}}:g{building}:products:2023-11")]).await;
    let log = Log::start(Level::WARN);
    let next = rebuild.start(|_| ControlFlow::Continue(())).await.unwrap();
    let why = "still differs from the database after 5 comparisons: 2023-11 product 1";
    assert!(log.lines().iter().any(|line| line.contains(why)), "{:?}", log.lines());
    let generations = redis.generations().await.unwrap();
    assert_eq!((generations.is_removed(building), generations.live()), (true, next));

    // A generation that cannot be repaired does not become live.
    rebuild.verifier.db.execute_unprepared("UPDATE order_events SET type = 'other' WHERE client_id = 2").await.unwrap();
    let error = rebuild.start(|_| ControlFlow::Continue(())).await.unwrap_err();
    assert!(error.to_string().contains("is invalid"), "{error}");
    assert_eq!(redis.generations().await.unwrap().live(), next);
    redis.change_generations(Generations::abort).await.unwrap().unwrap();
    assert_eq!(redis.change_generations(Generations::abort).await.unwrap(), Err(TransitionError::NotBuilding));
    redis.change_generations(Generations::discard).await.unwrap().unwrap();
    redis.change_generations(|generations, now| generations.expire(now + 10_000)).await.unwrap();
    let error = rebuild.roll_back(1, |_| ControlFlow::Continue(())).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no previous generation");
}

/// The operator confirmed one generation. Meanwhile another one took its place.
#[tokio::test]
async fn only_the_confirmed_generation_is_abandoned() {
    let (_server, redis, _) = redis().await;
    let confirmed = redis.change_generations(Generations::start).await.unwrap().unwrap();
    redis.change_generations(Generations::abort).await.unwrap().unwrap();
    let other = redis.change_generations(Generations::start).await.unwrap().unwrap();
    let error = rebuild::abandon(&redis, confirmed, Generations::abort).await.unwrap_err();
    assert_eq!(error.to_string(), format!("nothing was changed: it is now generation {other}, not {confirmed}"));
    assert_eq!(redis.generations().await.unwrap().building(), Some(other));
    rebuild::abandon(&redis, other, Generations::abort).await.unwrap();
    assert_eq!(redis.generations().await.unwrap().building(), None);
}
