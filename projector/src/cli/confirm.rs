//! Commands that delete something, or change what queries read, ask first.

use std::io::{BufRead, IsTerminal, stdin};

use anyhow::ensure;
use runtime::print_advice;

#[derive(Clone, Copy, clap::Args)]
pub struct Confirmation {
    /// Do not ask; required where there is no terminal
    #[arg(long)]
    yes: bool,
    /// Only print what would be done
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
}

impl Confirmation {
    /// Asks whether to do something, unless `--yes` is given. A dry run needs no confirmation.
    ///
    /// # Errors
    /// When the operator refuses or cannot be asked.
    pub fn ask(self, action: &str) -> anyhow::Result<()> {
        if self.yes || self.dry_run {
            return Ok(());
        }
        ensure!(stdin().is_terminal(), "to {action}, repeat the command with --yes; --dry-run shows what it would do");
        eprint!("This will {action}. Continue? [y/N] ");
        let mut response = String::new();
        stdin().lock().read_line(&mut response)?;
        ensure!(matches!(&*response.trim().to_lowercase(), "y" | "yes"), "cancelled: nothing was changed");
        Ok(())
    }

    /// Prints that nothing was changed, after a dry run.
    pub fn report_dry_run(self) {
        if self.dry_run {
            print_advice("this was a dry run: nothing was changed");
        }
    }
}
