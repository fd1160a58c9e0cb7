//! Users who place orders all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinHandle;

use crate::until;
use crate::user::{EXAMPLE, User};

/// Users who place orders all the time, until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub placed: Arc<AtomicUsize>,
    users: Vec<JoinHandle<()>>,
}

impl Load {
    /// They read as well. Each answer must be one.
    pub fn start(users: &[User], writers: usize) -> Load {
        Load::of(users, writers, |user, writer, _| async move {
            user.place(&(writer % 3 + 1).to_string(), &EXAMPLE, None).await;
            let answer = user.graphql(QUERY).await;
            assert!(answer["errors"].is_null(), "{answer}");
        })
    }

    /// `place` is told the number of the writer and of its turn, and places one order.
    pub fn of<Placing: Future<Output = ()> + Send>(
        users: &[User],
        writers: usize,
        place: impl Fn(User, usize, usize) -> Placing + Copy + Send + 'static,
    ) -> Load {
        let (stop, placed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let users = (0..writers).map(|writer| {
            let (user, stop, placed) = (users[writer % users.len()].clone(), stop.clone(), placed.clone());
            tokio::spawn(async move {
                let mut turns = 0..;
                while !stop.load(Ordering::Relaxed) {
                    place(user.clone(), writer, turns.next().unwrap()).await;
                    placed.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let users = users.collect();
        Load { stop, placed, users }
    }

    pub async fn more(&self) {
        self.more_than(20).await;
    }

    pub async fn more_than(&self, number: usize) {
        let before = self.placed.load(Ordering::Relaxed);
        until("more orders are placed", async || self.placed.load(Ordering::Relaxed) > before + number).await;
    }

    pub async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for user in self.users {
            user.await.unwrap();
        }
        self.placed.load(Ordering::Relaxed)
    }
}

pub const QUERY: &str = "{ client(id: \"1\") { total { amount } } }";
