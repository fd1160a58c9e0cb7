//! The states of generations, and each change that is allowed or refused. No server is needed.

use read_model::generations::{FORMAT, Generation, GenerationState, Generations, TransitionError};

const NOW: i64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;
/// How long a generation that was live is kept at least.
const STILL_READ: i64 = 10_000;

fn first() -> Generations {
    Generations::first(NOW)
}

/// Generation 1 is live, 2 is being built.
fn building() -> Generations {
    let mut generations = first();
    assert_eq!(generations.start(NOW), Ok(2));
    generations
}

/// Generation 2 is live, 1 is kept for a minute.
fn switched() -> Generations {
    let mut generations = building();
    assert_eq!(generations.switch(2, NOW, MINUTE), Ok(()));
    generations
}

fn state(generations: &Generations, number: u64) -> GenerationState {
    generations.generations[&number].state
}

fn set_format(generations: &mut Generations, number: u64, format: u32) {
    generations.generations.get_mut(&number).unwrap().format = format;
}

#[test]
fn an_empty_store_gets_one_live_generation() {
    let generations = first();
    assert_eq!((generations.live(), generations.building(), generations.previous()), (1, None, None));
    assert_eq!(generations.generations[&1], Generation { state: GenerationState::Live, format: FORMAT });
    assert_eq!(generations.fencing_token, NOW as u64);
}

#[test]
fn starting_adds_a_generation_that_receives_events_and_is_not_read() {
    let generations = building();
    assert_eq!((generations.live(), generations.building()), (1, Some(2)));
    assert_eq!(generations.written().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn starting_again_continues_the_same_generation() {
    let mut generations = building();
    let before = generations.clone();
    assert_eq!(generations.start(NOW + 1), Ok(2));
    assert_eq!(generations, before);
}

#[test]
fn starting_replaces_an_unfinished_generation_of_another_format() {
    let mut generations = building();
    set_format(&mut generations, 2, FORMAT - 1);
    assert_eq!(generations.start(NOW + 1), Ok(3));
    assert_eq!(state(&generations, 2), GenerationState::Removed { since: NOW + 1 });
}

#[test]
fn starting_is_refused_if_a_newer_release_made_the_live_generation() {
    let mut generations = first();
    set_format(&mut generations, 1, FORMAT + 1);
    assert_eq!(generations.start(NOW), Err(TransitionError::Newer(FORMAT + 1)));
}

#[test]
fn a_newer_format_of_any_generation_that_receives_events_counts() {
    let mut generations = building();
    assert_eq!(generations.format(), FORMAT);
    set_format(&mut generations, 2, FORMAT + 1);
    assert_eq!(generations.format(), FORMAT + 1);
    generations.abort(NOW).unwrap();
    assert_eq!(generations.format(), FORMAT);
}

#[test]
fn switching_makes_the_new_generation_live_and_keeps_the_old_one() {
    let generations = switched();
    assert_eq!((generations.live(), generations.building(), generations.previous()), (2, None, Some(1)));
    assert_eq!(state(&generations, 1), GenerationState::Kept { until: NOW + MINUTE });
    assert_eq!(generations.written().collect::<Vec<_>>(), [2, 1], "the live one comes first");
}

#[test]
fn switching_again_changes_nothing() {
    let mut generations = switched();
    assert_eq!(generations.switch(2, NOW + 1, 0), Ok(()));
    assert_eq!(generations, switched());
}

#[test]
fn switching_is_refused_for_a_generation_that_is_not_being_built() {
    let mut generations = building();
    assert_eq!(generations.switch(3, NOW, MINUTE), Err(TransitionError::Gone(3)));
    generations.abort(NOW).unwrap();
    assert_eq!(generations.switch(2, NOW, MINUTE), Err(TransitionError::Gone(2)));
    assert_eq!(switched().switch(1, NOW, MINUTE), Err(TransitionError::Gone(1)), "it is kept");
}

#[test]
fn the_old_generation_is_kept_while_readers_may_still_use_it() {
    let mut generations = building();
    generations.switch(2, NOW, 0).unwrap();
    assert_eq!(state(&generations, 1), GenerationState::Kept { until: NOW + STILL_READ });
}

#[test]
fn switching_discards_a_generation_that_was_kept_before() {
    let mut generations = switched();
    assert_eq!(generations.start(NOW), Ok(3));
    generations.switch(3, NOW, 2 * MINUTE).unwrap();
    assert_eq!(state(&generations, 1), GenerationState::Kept { until: NOW + STILL_READ });
    assert_eq!(generations.previous(), Some(2), "the one that is kept for longest");
}

#[test]
fn a_rollback_exchanges_the_live_and_the_previous_generation() {
    let mut generations = switched();
    assert_eq!(generations.roll_back(1, NOW + 1, MINUTE), Ok(()));
    assert_eq!((generations.live(), generations.previous()), (1, Some(2)));
    assert_eq!(state(&generations, 2), GenerationState::Kept { until: NOW + 1 + MINUTE });
}

#[test]
fn a_rollback_is_refused_without_that_previous_generation() {
    assert_eq!(first().roll_back(1, NOW, MINUTE), Err(TransitionError::Gone(1)));
    assert_eq!(building().roll_back(2, NOW, MINUTE), Err(TransitionError::Gone(2)));
    let mut generations = switched();
    generations.expire(NOW + MINUTE);
    assert_eq!(generations.roll_back(1, NOW, MINUTE), Err(TransitionError::Gone(1)));
}

#[test]
fn aborting_removes_the_generation_that_is_being_built() {
    let mut generations = building();
    assert_eq!(generations.abort(NOW), Ok(2));
    assert_eq!(state(&generations, 2), GenerationState::Removed { since: NOW });
    assert_eq!(generations.written().collect::<Vec<_>>(), [1]);
    assert_eq!(generations.abort(NOW), Err(TransitionError::NotBuilding));
    assert_eq!(switched().abort(NOW), Err(TransitionError::NotBuilding));
}

#[test]
fn discarding_shortens_the_time_of_the_previous_generation() {
    let mut generations = switched();
    assert_eq!(generations.discard(NOW), Ok(1));
    assert_eq!(state(&generations, 1), GenerationState::Kept { until: NOW + STILL_READ });
    assert_eq!(generations.discard(NOW + 1), Ok(1), "never made longer");
    assert_eq!(state(&generations, 1), GenerationState::Kept { until: NOW + STILL_READ });
    assert_eq!(building().discard(NOW), Err(TransitionError::NoPrevious));
}

#[test]
fn a_kept_generation_expires_at_its_time() {
    let mut generations = switched();
    generations.expire(NOW + MINUTE - 1);
    assert_eq!(generations, switched());
    generations.expire(NOW + MINUTE);
    assert_eq!(state(&generations, 1), GenerationState::Removed { since: NOW + MINUTE });
    assert_eq!((generations.live(), generations.previous()), (2, None));
}

#[test]
fn keys_are_removable_some_time_after_their_generation_was_removed() {
    let mut generations = building();
    generations.abort(NOW).unwrap();
    assert!(generations.is_removed(2) && !generations.is_removed(1) && !generations.is_removed(3));
    assert!(generations.removable(NOW + 4_999, 5_000).is_empty());
    assert_eq!(generations.removable(NOW + 5_000, 5_000), [2]);
}

#[test]
fn only_a_removed_generation_can_be_forgotten_and_its_number_is_not_used_again() {
    let mut generations = building();
    generations.forget(1);
    generations.forget(2);
    assert_eq!(generations, building());
    generations.abort(NOW).unwrap();
    generations.forget(2);
    assert_eq!(generations.generations.len(), 1);
    assert_eq!(generations.start(NOW), Ok(3));
}
