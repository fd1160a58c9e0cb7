//! Dead letters.

use crate::support::*;
use iso_currency::Currency;
use projector::queues::dead_letters::{Action, DeadLetter, DeadLetters, Verdict};
use read_model::{Memory, Projection, ReadModel};
use std::sync::Arc;

#[tokio::test]
async fn dead_letters_are_judged_redriven_and_discarded() {
    let (_server, read_model, url) = redis().await;
    let memory: Arc<dyn ReadModel> = Arc::new(Memory::default());
    let (consumer, dead_letters_url) = consumer(memory).await;
    let bury = async |body: &str| {
        let request = consumer.queue.send_message().queue_url(&dead_letters_url).message_body(body);
        request.send().await.unwrap().message_id.unwrap()
    };
    read_model.apply(&events(&[row(1, 1)])).await;
    command(&url, &["SET", "orders:{p3}:g1:client:3", "damaged"]).await;
    let superseded = bury(&row(1, 1).message()).await;
    let needed = bury(&row(1, 2).message()).await;
    let damaged = bury(&row(3, 1).message()).await;
    let foreign = bury("not an event").await;
    let many: Vec<String> = futures::future::join_all((10..40).map(async |n| bury(&row(n, 1).message()).await)).await;

    let of = (consumer.queue.clone(), consumer.queue_url.clone());
    let mut letters = DeadLetters::of(of.0, of.1, read_model, Currency::USD).await.unwrap();
    for _ in 0..2 {
        // Twice, because listing must not remove messages.
        let mut verdicts = std::collections::HashMap::new();
        let judge =
            |letter: &DeadLetter| drop(verdicts.insert(letter.id.clone(), (letter.verdict, letter.why.clone())));
        letters.list(judge).await.unwrap();
        assert_eq!(letters.close().await.unwrap(), 0);
        assert_eq!(verdicts.len(), 34);
        assert_eq!(verdicts[&superseded].0, Verdict::Superseded);
        assert_eq!(verdicts[&needed].0, Verdict::Needed);
        assert!(verdicts[&damaged].0 == Verdict::Needed && verdicts[&damaged].1.contains("WRONGTYPE"), "{verdicts:?}");
        assert!(verdicts[&foreign].0 == Verdict::Foreign && verdicts[&foreign].1.contains("not a CloudEvent"));
    }

    let mut would = Vec::new();
    let each = |letter: &DeadLetter, is_done: bool| would.push((letter.id.clone(), is_done));
    assert_eq!(letters.act(Action::Discard, vec![], true, each).await.unwrap(), [""; 0]);
    letters.close().await.unwrap();
    let done: Vec<_> = would.iter().filter(|(_, is_done)| *is_done).map(|(id, _)| id).collect();
    assert!(
        would.len() == 34 && done.len() == 2 && done.contains(&&superseded) && done.contains(&&foreign),
        "{would:?}"
    );
    let missing =
        letters.act(Action::Redrive, vec![needed.clone(), "no-such-id".into()], true, |_, _| {}).await.unwrap();
    assert_eq!(missing, ["no-such-id"]);
    letters.close().await.unwrap();
    assert_eq!(waiting(&consumer.queue, &consumer.queue_url).await, (0, 0));

    let mut act = async |action, ids: &[&String]| {
        let (mut done, mut kept) = (Vec::new(), Vec::new());
        let ids = ids.iter().map(|id| id.to_string()).collect();
        let each =
            |letter: &DeadLetter, is_done: bool| if is_done { &mut done } else { &mut kept }.push(letter.id.clone());
        let missing = letters.act(action, ids, false, each).await.unwrap();
        letters.close().await.unwrap();
        done.sort();
        kept.sort();
        (done, kept, missing)
    };
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    let unknown = "no-such-id".to_owned();
    assert_eq!(act(Action::Redrive, &[&many[7], &unknown]).await, (vec![many[7].clone()], vec![], vec![unknown]));
    assert_eq!(waiting(&consumer.queue, &consumer.queue_url).await, (1, 0));
    // Without ids, needed messages are not discarded and foreign messages are not redriven.
    let (done, kept, _) = act(Action::Discard, &[]).await;
    assert_eq!((done, kept.len()), (sorted(vec![superseded, foreign.clone()]), 31));
    bury("not an event").await;
    let (done, kept, _) = act(Action::Redrive, &[]).await;
    assert_eq!((done.len(), kept.len()), (31, 1));
    assert_eq!(waiting(&consumer.queue, &consumer.queue_url).await, (32, 0));
    assert_eq!(act(Action::Discard, &[&kept[0]]).await.0, kept);
    assert_eq!(waiting(&consumer.queue, &dead_letters_url).await, (0, 0));
}
