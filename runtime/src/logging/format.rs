//! The formats of a line, each with the ids of its request or event.

use std::fmt;

use serde::ser::{SerializeMap, Serializer};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_serde::SerdeMapVisitor;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::context::for_each_id;

/// First capacity of the buffer of a line, in bytes. Longer lines grow it.
const USUAL_LENGTH: usize = 512;

/// Appends the ids to the lines of another format.
pub struct Text<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for Text<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        writer.write_str(line.strip_suffix('\n').unwrap_or(&line))?;
        for_each_id(|name, id| write!(writer, " {name}={id}"))?;
        writer.write_char('\n')
    }
}

/// An object for each line, with the names of the flattened JSON of tracing-subscriber. That one checks and writes each token of a line on
/// its own, which takes as long as everything else about the line.
pub struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let line = to_json(&time, event).map_err(|_| fmt::Error)?;
        writer.write_str(str::from_utf8(&line).map_err(|_| fmt::Error)?)?;
        writer.write_char('\n')
    }
}

fn to_json(time: &str, event: &Event<'_>) -> serde_json::Result<Vec<u8>> {
    // Lines of the crate `log` have their metadata in fields.
    let of_log = event.normalized_metadata();
    let metadata = of_log.as_ref().unwrap_or_else(|| event.metadata());
    let mut line = Vec::with_capacity(USUAL_LENGTH);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut fields = serializer.serialize_map(None)?;
    fields.serialize_entry("timestamp", time)?;
    fields.serialize_entry("level", metadata.level().as_str())?;
    let mut visitor = SerdeMapVisitor::new(fields);
    event.record(&mut visitor);
    let mut fields = visitor.take_serializer()?;
    fields.serialize_entry("target", metadata.target())?;
    for_each_id(|name, id| fields.serialize_entry(name, id))?;
    fields.end()?;
    Ok(line)
}
