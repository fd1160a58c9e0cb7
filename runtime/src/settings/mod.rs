//! Settings. Each is an environment variable and a flag, and all programs read them in the same way:
//!
//! - An empty variable counts as not set. A variable that begins or ends with white space is refused.
//! - A switch takes `true`, `yes`, `on` or `1`, and their opposites, in upper or lower case.
//! - An error names the variable. `--help` has one line for each setting, and never the value of a variable.

mod command_line;
mod files;
mod values;

pub use command_line::parse;
pub use files::read_file;
pub use values::{duration, duration_between, duration_from, listen, listen_address};
