//! Errors in one line, and the end of a program.

use std::error::Error;
use std::process::{ExitCode, Termination};

use crate::{logging, print_advice};

/// What `main` returns: the exit code of a program, or an error, which is printed to standard error in one line.
pub struct Exit(anyhow::Result<ExitCode>);

impl From<anyhow::Result<ExitCode>> for Exit {
    fn from(result: anyhow::Result<ExitCode>) -> Exit {
        Exit(result)
    }
}

impl From<anyhow::Result<()>> for Exit {
    fn from(result: anyhow::Result<()>) -> Exit {
        Exit(result.map(|()| ExitCode::SUCCESS))
    }
}

impl Termination for Exit {
    /// Nothing logs any more: the runtime was dropped with its tasks.
    fn report(self) -> ExitCode {
        logging::flush();
        self.0.unwrap_or_else(|error| {
            print_advice(format_args!("error: {}", one_line(error.as_ref())));
            ExitCode::FAILURE
        })
    }
}

/// Some libraries put whole requests into their errors, so longer lines are cut.
const MAX_LINE: usize = 300;

/// Formats an error and its causes in one line. Many libraries repeat the cause in the error, so repeated text is left out.
pub fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
