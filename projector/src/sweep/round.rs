//! A round compares every client and every product once. Its progress is stored in the read model, so that another projector can continue it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use runtime::one_line;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::verify::{COMPARED_AT_ONCE, Finding, FirstMissed, Verifier};

pub struct Round {
    progress: Progress,
    /// The largest id of a client when this process began or continued the round.
    last_client: i64,
    /// Clients in the next page. Fewer after a page that failed.
    page_size: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Progress {
    began: DateTime<Utc>,
    /// All clients up to this id have been compared.
    last: i64,
    /// After all clients: all products up to this id have been compared.
    #[serde(default)]
    last_product: i64,
    is_finished: bool,
    has_compared_sums: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { began: Utc::now(), last: 0, last_product: 0, is_finished: false, has_compared_sums: false }
    }
}

impl Round {
    /// Continues the stored round, or begins one.
    pub async fn load(verifier: &Verifier) -> anyhow::Result<Round> {
        let stored = verifier.read_model.sweep_progress().await?;
        let progress = stored.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(Progress::new);
        Ok(Round { progress, last_client: verifier.last_client().await?, page_size: COMPARED_AT_ONCE })
    }

    /// Whether the next page is due, so that the round takes this long.
    pub fn is_due(&self, period: Duration) -> bool {
        let elapsed = (Utc::now() - self.progress.began).to_std().unwrap_or_default();
        // By ids, because counting the clients would read all of them.
        let compared = self.progress.last.min(self.last_client) as f64 / self.last_client.max(1) as f64;
        let compared = if self.progress.is_finished { 1.0 } else { compared };
        elapsed >= period.mul_f64(compared)
    }

    /// Compares the next page; `None` at the end of the round. The round begins again after [`Round::finish`].
    ///
    /// A page that fails, for example because it takes too long, is tried again in smaller pages; a client that fails alone is
    /// skipped.
    pub async fn next_page(
        &mut self,
        verifier: &Verifier,
        first_missed: &mut FirstMissed,
    ) -> anyhow::Result<Option<Vec<Finding>>> {
        if self.progress.is_finished {
            self.progress = Progress::new();
            self.last_client = verifier.last_client().await?;
        }
        let page = match verifier.next_clients(self.progress.last, self.page_size, first_missed).await {
            Ok(Some(page)) => page,
            Ok(None) => return self.next_products(verifier, first_missed).await,
            Err(error) if self.page_size > 1 => {
                self.page_size = (self.page_size / 10).max(1);
                return Err(error);
            }
            Err(error) => {
                // Fails if a store is down. Then nothing is skipped.
                verifier.check_stores().await?;
                if let Some(client) = verifier.client_after(self.progress.last).await? {
                    warn!(client, "skipped a client that cannot be compared: {}", one_line(error.as_ref()));
                    self.move_to(verifier, client).await?;
                }
                return Ok(Some(Vec::new()));
            }
        };
        self.move_to(verifier, page.last).await?;
        Ok(Some(page.findings))
    }

    async fn next_products(
        &mut self,
        verifier: &Verifier,
        first_missed: &mut FirstMissed,
    ) -> anyhow::Result<Option<Vec<Finding>>> {
        let Some(page) = verifier.next_products(self.progress.last_product, first_missed).await? else {
            return Ok(None);
        };
        self.progress.last_product = page.last;
        self.save(verifier).await?;
        Ok(Some(page.findings))
    }

    async fn move_to(&mut self, verifier: &Verifier, last: i64) -> anyhow::Result<()> {
        self.progress.last = last;
        self.page_size = (self.page_size * 2).min(COMPARED_AT_ONCE);
        self.save(verifier).await
    }

    /// Whether the sums have been compared in this round.
    pub fn has_compared_sums(&self) -> bool {
        self.progress.has_compared_sums
    }

    pub async fn set_compared_sums(&mut self, verifier: &Verifier) -> anyhow::Result<()> {
        self.progress.has_compared_sums = true;
        self.save(verifier).await
    }

    /// Lets the sums be compared in this round once more.
    pub async fn compare_sums_again(&mut self, verifier: &Verifier) -> anyhow::Result<()> {
        self.progress.has_compared_sums = false;
        self.save(verifier).await
    }

    pub async fn finish(&mut self, verifier: &Verifier) -> anyhow::Result<()> {
        self.progress.is_finished = true;
        self.save(verifier).await
    }

    async fn save(&self, verifier: &Verifier) -> anyhow::Result<()> {
        Ok(verifier.read_model.save_sweep_progress(&serde_json::to_string(&self.progress)?).await?)
    }
}
