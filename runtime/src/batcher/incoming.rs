//! The items that wait in a queue, by group, and whose turn it is.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Queued, Unprocessed};

pub struct Incoming<T, R> {
    state: Mutex<State<T, R>>,
    /// Notified when items can be taken, and when the queue is closed and empty.
    ready: Notify,
}

struct State<T, R> {
    groups: HashMap<i64, Group<T, R>>,
    /// The groups of which an item can be taken, in the sequence of their turns.
    turns: VecDeque<i64>,
    waiting: usize,
    max_waiting: usize,
    /// Whether the items of a group wait while others of it are processed.
    is_exclusive: bool,
    is_closed: bool,
}

struct Group<T, R> {
    /// In the sequence of their arrival.
    items: VecDeque<Queued<T, R>>,
    /// Number of items that were taken and have no result yet. 0 in a queue that is not exclusive.
    in_process: usize,
}

/// An item of an exclusive queue that was taken and has no result yet.
pub struct InProcess<T, R> {
    incoming: Arc<Incoming<T, R>>,
    group: i64,
}

impl<T, R> Drop for InProcess<T, R> {
    fn drop(&mut self) {
        let mut state = self.incoming.lock();
        if state.end_process(self.group) {
            self.incoming.ready.notify_one();
        }
    }
}

impl<T, R> Incoming<T, R> {
    pub fn new(max_waiting: usize, is_exclusive: bool) -> Incoming<T, R> {
        let (groups, turns) = (HashMap::new(), VecDeque::new());
        let state = State { groups, turns, waiting: 0, max_waiting, is_exclusive, is_closed: false };
        Incoming { state: Mutex::new(state), ready: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item.
    ///
    /// # Errors
    /// When the queue is full or closed.
    pub fn insert(&self, queued: Queued<T, R>) -> Result<(), Unprocessed> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(Unprocessed::Stopped);
        }
        if state.waiting == state.max_waiting {
            return Err(Unprocessed::QueueFull);
        }
        state.insert(queued);
        if !state.turns.is_empty() {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Accepts no more items.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.ready.notify_waiters();
    }

    pub fn take_all(&self) -> Vec<Queued<T, R>> {
        let mut state = self.lock();
        let items = state.groups.values_mut().flat_map(|group| mem::take(&mut group.items)).collect();
        state.groups.retain(|_, group| group.in_process > 0);
        state.turns.clear();
        state.waiting = 0;
        if state.is_closed {
            self.ready.notify_waiters();
        }
        items
    }

    pub async fn receive(self: &Arc<Self>, batch: &mut Vec<Queued<T, R>>, max_weight: usize) -> usize {
        loop {
            let ready = self.ready.notified();
            match self.take(batch, max_weight) {
                Some(taken) => return taken,
                None => ready.await,
            }
        }
    }

    /// Appends items of at most `max_weight`, or one that is heavier. Returns their number, or `None` if there may be items later.
    fn take(self: &Arc<Self>, batch: &mut Vec<Queued<T, R>>, max_weight: usize) -> Option<usize> {
        let mut state = self.lock();
        let before = batch.len();
        let (mut weight, mut limit) = (0, usize::MAX);
        while let Some(mut queued) = state.next(limit) {
            weight += queued.weight;
            limit = max_weight.saturating_sub(weight);
            if state.is_exclusive {
                queued.in_process = Some(InProcess { incoming: self.clone(), group: queued.group });
            }
            batch.push(queued);
        }
        state.end_turns_of_groups_in_process();
        let is_over = state.is_closed && state.waiting == 0;
        if is_over {
            self.ready.notify_waiters();
        } else if !state.turns.is_empty() {
            self.ready.notify_one();
        }
        let taken = batch.len() - before;
        (taken > 0 || is_over).then_some(taken)
    }
}

impl<T, R> State<T, R> {
    fn insert(&mut self, queued: Queued<T, R>) {
        let id = queued.group;
        let group = self.groups.entry(id).or_insert_with(|| Group { items: VecDeque::new(), in_process: 0 });
        if group.items.is_empty() && group.in_process == 0 {
            self.turns.push_back(id);
        }
        group.items.push_back(queued);
        self.waiting += 1;
    }

    /// Takes the next item, if it is not heavier than this.
    fn next(&mut self, max_weight: usize) -> Option<Queued<T, R>> {
        let id = *self.turns.front()?;
        let group = self.groups.get_mut(&id)?;
        let queued = group.items.pop_front_if(|queued| queued.weight <= max_weight)?;
        self.waiting -= 1;
        self.turns.rotate_left(1);
        if group.items.is_empty() {
            self.turns.pop_back();
        }
        if self.is_exclusive {
            group.in_process += 1;
        } else if group.items.is_empty() {
            self.groups.remove(&id);
        }
        Some(queued)
    }

    /// The groups of the items that were just taken had their turns last.
    fn end_turns_of_groups_in_process(&mut self) {
        let is_in_process = |id: &mut i64| self.groups.get(id).is_some_and(|group| group.in_process > 0);
        while self.turns.pop_back_if(is_in_process).is_some() {}
    }

    /// Returns whether items of the group can be taken now.
    fn end_process(&mut self, id: i64) -> bool {
        let Some(group) = self.groups.get_mut(&id) else { return false };
        group.in_process -= 1;
        if group.in_process > 0 {
            return false;
        }
        match group.items.is_empty() {
            true => drop(self.groups.remove(&id)),
            false => self.turns.push_back(id),
        }
        self.turns.back() == Some(&id)
    }
}
