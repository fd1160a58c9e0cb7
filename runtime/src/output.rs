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

/// Prints a line to standard error: advice, or why the command failed.
///
/// # Panics
/// As [`print_line`].
pub fn print_advice(line: impl Display) {
    write_line(&mut stderr().lock(), line);
}

fn write_line(output: &mut impl Write, line: impl Display) {
    match writeln!(output, "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("cannot print: {error}"),
        _ => {}
    }
}
