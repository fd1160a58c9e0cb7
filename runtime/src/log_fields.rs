//! The text form of fields in log lines. Control characters are escaped, because a value with a newline could pass for a line of
//! its own.

use std::fmt::{self, Debug, Write};

use tracing::field::Field;
use tracing_subscriber::field::{MakeExt, RecordFields};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

#[derive(Clone, Copy)]
pub struct EscapedFields;

impl<'writer> FormatFields<'writer> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        debug_fn(write_field).delimited(" ").format_fields(writer, fields)
    }
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaped(writer), "{value:?}")
}

struct Escaped<'a, 'writer>(&'a mut Writer<'writer>);

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(is_line_breaking) {
            match part.char_indices().next_back().filter(|(_, last)| is_line_breaking(*last)) {
                Some((end, last)) => write!(self.0, "{}{}", &part[..end], last.escape_default())?,
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

fn is_line_breaking(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::{error, info};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_value_cannot_look_like_a_line_of_its_own() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(EscapedFields)
            .with_ansi(false)
            .without_time()
            .finish();
        let forged = "EUR\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2K\u{2028}\u{85}é";
        tracing::subscriber::with_default(subscriber, || {
            info!("in a message: {forged}");
            error!(currency = %forged, text = forged, number = 7, "in fields");
        });
        let log = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let escaped = r"EUR\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2K\u{2028}\u{85}é";
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines[0].ends_with(&format!("in a message: {escaped}")), "{log}");
        assert!(lines[1].ends_with(&format!("in fields currency={escaped} text={forged:?} number=7")), "{log}");
    }
}
