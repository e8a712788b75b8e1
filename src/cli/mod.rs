//! The command line: flags, exit codes, log output and the progress bar.

mod error;
mod flags;
mod log;
mod progress;

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use crate::config::{self, Machine};

pub use error::{CliError, one_line};
pub use log::start_logging;
pub use progress::Progress;

/// What the operator wants done.
#[derive(Debug)]
pub enum Command {
    /// Run a machine.
    Run(Box<Machine>),
    /// Show this (help or version) on standard output.
    Show(String),
}

/// Understands the command line `arguments`, the program's name first.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, CliError> {
    let flags = match flags::Sluice::try_parse_from(arguments) {
        Ok(flags) => flags,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Command::Show(e.render().to_string()));
        }
        Err(e) if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Err(CliError::Usage("no command given".to_owned()));
        }
        Err(e) => return Err(CliError::usage(&e)),
    };
    let flags::Verb::Run(run) = flags.verb;
    let file = run.config.as_deref().map(config::load).transpose()?;
    let settings = run.settings()?.over(file.unwrap_or_default());
    Ok(Command::Run(Box::new(settings.validate()?)))
}

#[cfg(test)]
mod tests;
