//! A round compares every client and every product once. Its progress is stored in the read model, so that another projector can continue it.

use std::time::Duration;

use chrono::Utc;
use read_model::SweepProgress;
use runtime::one_line;
use tracing::warn;

use crate::verify::{COMPARED_AT_ONCE, Finding, FirstMissed, Verifier};

pub struct Round {
    progress: SweepProgress,
    /// The largest id of a client when this process began or continued the round.
    last_client: i64,
    /// Clients in the next page. Fewer after a page that failed.
    page_size: u64,
}

impl Round {
    /// Continues the stored round, or begins one.
    pub async fn load(verifier: &Verifier) -> anyhow::Result<Round> {
        let stored = verifier.read_model.sweep_progress().await?;
        let progress = stored.unwrap_or_else(|| SweepProgress::new(None));
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
            self.progress = SweepProgress::new(Some(&self.progress));
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

    /// Stores that recent changes have been compared, with these findings, for operators.
    pub async fn set_compared(&mut self, verifier: &Verifier, findings: &[Finding]) -> anyhow::Result<()> {
        let now = Utc::now();
        self.progress.compared_at = Some(now);
        if !findings.is_empty() {
            self.progress.last_difference = Some(now);
        }
        self.progress.differences += findings.len() as u64;
        self.progress.repaired += findings.iter().filter(|finding| finding.repaired).count() as u64;
        self.save(verifier).await
    }

    async fn save(&self, verifier: &Verifier) -> anyhow::Result<()> {
        Ok(verifier.read_model.save_sweep_progress(&self.progress).await?)
    }
}
