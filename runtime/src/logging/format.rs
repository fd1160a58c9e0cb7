//! Adds the ids of a request or an event to each line.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::context::for_each_id;

/// A format whose lines end with the ids.
pub enum WithIds<F> {
    Text(F),
    Json(F),
}

impl<S, N, F> FormatEvent<S, N> for WithIds<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (WithIds::Text(format) | WithIds::Json(format)) = self;
        let mut line = String::new();
        format.format_event(ctx, Writer::new(&mut line), event)?;
        let end = if matches!(self, WithIds::Json(_)) { "}\n" } else { "\n" };
        writer.write_str(line.strip_suffix(end).unwrap_or(&line))?;
        // The ids have no characters that need an escape.
        for_each_id(|name, id| match self {
            WithIds::Text(_) => write!(writer, " {name}={id}"),
            WithIds::Json(_) => write!(writer, ",\"{name}\":\"{id}\""),
        })?;
        writer.write_str(end)
    }
}
