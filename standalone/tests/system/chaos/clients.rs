//! The clients of the writers, and the personal data that were sent of each.

use std::collections::{BTreeSet, HashSet};

use rand::Rng;
use rand::rngs::StdRng;

#[derive(Clone, Debug, Default)]
pub struct Clients {
    /// Those that nobody has begun to forget.
    pub active: Vec<i64>,
    /// The others.
    pub forgotten: BTreeSet<i64>,
    /// Names, addresses and reasons that were sent, each with its client.
    personal: Vec<(i64, String)>,
}

impl Clients {
    pub fn add(&mut self, id: i64, personal: impl IntoIterator<Item = String>) {
        self.active.push(id);
        self.sent(id, personal);
    }

    pub fn sent(&mut self, id: i64, personal: impl IntoIterator<Item = String>) {
        self.personal.extend(personal.into_iter().map(|text| (id, text)));
    }

    /// Removes a random client. Returns also the address that was sent last.
    pub fn remove_any(&mut self, random: &mut StdRng) -> (i64, String) {
        let id = self.active.swap_remove(random.random_range(0..self.active.len()));
        self.forgotten.insert(id);
        let is_address = |(client, text): &&(i64, String)| *client == id && text.contains('@');
        (id, self.personal.iter().rfind(is_address).unwrap().1.clone())
    }

    /// The personal data in a text that are only those of forgotten clients, and those of others, who may have the same address now.
    pub fn found_in<'a>(&self, text: &'a str) -> [Vec<&'a str>; 2] {
        let (forgotten, others): (Vec<_>, Vec<_>) =
            self.personal.iter().partition(|(client, _)| self.forgotten.contains(client));
        let [mut erased, others] = [forgotten, others]
            .map(|personal| personal.into_iter().map(|(_, text)| text.as_str()).collect::<HashSet<&str>>());
        erased.retain(|text| !others.contains(text));
        let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || "@.".contains(character)));
        [erased, others].map(|personal| words.clone().filter(|word| personal.contains(word)).collect())
    }
}
