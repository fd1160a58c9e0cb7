//! Users who place orders all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinHandle;

use crate::until;
use crate::user::{SAMPLE_ORDER, User};

pub const QUERY: &str = "{ client(id: \"1\") { total { amount } } }";

pub struct Load {
    stop: Arc<AtomicBool>,
    /// Orders that were placed so far.
    pub placed: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Each writer places the sample order for one of three clients and then reads a client. No response may be an error.
    pub fn start(users: &[User], writers: usize) -> Load {
        Load::start_with(users, writers, |user, writer, _| async move {
            user.place(&(writer % 3 + 1).to_string(), &SAMPLE_ORDER, None).await;
            let response = user.graphql(QUERY).await;
            assert!(response["errors"].is_null(), "{response}");
        })
    }

    /// `place` gets the number of the writer and of its turn, and places one order.
    pub fn start_with<Placing: Future<Output = ()> + Send>(
        users: &[User],
        writers: usize,
        place: impl Fn(User, usize, usize) -> Placing + Clone + Send + 'static,
    ) -> Load {
        let (stop, placed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let writers = (0..writers).map(|writer| {
            let (user, place) = (users[writer % users.len()].clone(), place.clone());
            let (stop, placed) = (stop.clone(), placed.clone());
            tokio::spawn(async move {
                let mut turns = 0..;
                while !stop.load(Ordering::Relaxed) {
                    place(user.clone(), writer, turns.next().unwrap()).await;
                    placed.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let writers = writers.collect();
        Load { stop, placed, writers }
    }

    /// Waits until so many more orders are placed.
    pub async fn place_more(&self, number: usize) {
        let before = self.placed.load(Ordering::Relaxed);
        until("more orders are placed", async || self.placed.load(Ordering::Relaxed) > before + number).await;
    }

    /// Stops the writers, and returns how many orders they placed.
    pub async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        self.placed.load(Ordering::Relaxed)
    }
}
