//! What commands print. Whoever reads it may be gone, as `head` is when it has enough: the command continues and prints nothing more.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};

/// Prints a line to standard output.
///
/// # Panics
/// When standard output cannot be written, for example because a disk is full.
pub fn print_line(line: impl Display) {
    write_line(&mut stdout().lock(), line);
}

/// Prints a line to standard error: advice, or why the command failed. It may quote an argument or a message, so it is made
/// [`printable`].
///
/// # Panics
/// As [`print_line`].
pub fn print_advice(line: impl Display) {
    write_advice(&mut stderr().lock(), line);
}

/// Escapes characters that control a terminal or hide text, as JSON does, except for some.
pub fn printable(text: &str, allowed: &[char]) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        let hides = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        match (character.is_control() || hides) && !allowed.contains(&character) {
            true => printable.push_str(&format!("\\u{:04x}", u32::from(character))),
            false => printable.push(character),
        }
    }
    printable
}

fn write_advice(output: &mut impl Write, line: impl Display) {
    write_line(output, printable(&line.to_string(), &[]));
}

fn write_line(output: &mut impl Write, line: impl Display) {
    match writeln!(output, "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("cannot print: {error}"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn control_characters_are_escaped_and_json_stays_json() {
        assert_eq!(printable("a\u{1b}[31mb\r\n\u{9b}\u{202e}é", &['\n']), "a\\u001b[31mb\\u000d\n\\u009b\\u202eé");
        let line = json!({ "body": "\u{9b}2J\u{7f}\n" }).to_string();
        assert_eq!(
            serde_json::from_str::<Value>(&printable(&line, &[])).unwrap(),
            json!({ "body": "\u{9b}2J\u{7f}\n" })
        );
    }

    #[test]
    fn an_argument_in_an_error_does_not_control_the_terminal() {
        let mut output = Vec::new();
        write_advice(&mut output, format_args!("error: there is no dead letter {}", "\u{1b}[2J\u{1b}]0;x\u{7}"));
        assert_eq!(String::from_utf8(output).unwrap(), "error: there is no dead letter \\u001b[2J\\u001b]0;x\\u0007\n");
    }
}
