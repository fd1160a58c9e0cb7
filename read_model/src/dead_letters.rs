//! What a dead letter is, and whether the read model still needs it.

use std::fmt;

use chrono::Utc;
use entity::Event;
use iso_currency::Currency;
use serde::Serialize;

use crate::rules::check_version;
use crate::{Error, Queries};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Not an event of this service: it can only be discarded.
    Foreign,
    /// Applied since, so it can be discarded.
    Superseded,
    /// Missing in the read model: redrive it, or repair the read model from the log.
    Needed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Verdict::Foreign => "foreign",
            Verdict::Superseded => "superseded",
            Verdict::Needed => "needed",
        })
    }
}

/// A dead letter that was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    /// Why it was not applied, as far as that is known now. It repeats no text of the letter.
    pub why: String,
    /// `None` if it is not a valid event.
    pub event: Option<Event>,
}

/// Judges the body of a dead letter.
///
/// # Errors
/// When the read model is unavailable, and the letter is a valid event.
pub async fn judge(read_model: &dyn Queries, body: &str, currency: Currency) -> Result<Judgement, Error> {
    let event = match Event::parse(body, currency.code(), Utc::now()) {
        Ok(event) => event,
        Err(error) => return Ok(Judgement { verdict: Verdict::Foreign, why: error.without_content(), event: None }),
    };
    let (verdict, why) = match is_applied(read_model, &event).await {
        Ok(true) => (Verdict::Superseded, "it has been applied since".into()),
        Ok(false) => (Verdict::Needed, "it can be applied now".into()),
        Err(error @ Error::Damaged(_)) => (Verdict::Needed, error.to_string()),
        Err(error @ Error::Refused(_)) => (Verdict::Foreign, error.to_string()),
        Err(error @ Error::Unavailable(_)) => return Err(error),
    };
    Ok(Judgement { verdict, why, event: Some(event) })
}

/// Whether the event has been applied.
///
/// # Errors
/// Also if it would be refused.
async fn is_applied(read_model: &dyn Queries, event: &Event) -> Result<bool, Error> {
    let applied = read_model.applied_versions(event.subject()).await?;
    if applied.has(event.version) {
        return Ok(true);
    }
    check_version(event, applied.watermark)?;
    Ok(false)
}
