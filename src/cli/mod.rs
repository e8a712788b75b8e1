//! The command line: flags, exit codes, log output and the progress bar.

mod bind;
mod check;
mod ctl;
mod devices;
mod error;
mod flags;
mod log;
mod page;
mod progress;
mod sriov;
mod table;

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use crate::config::{self, Machine, NumberedVf};

pub use bind::{Bind, Release, bind, release};
pub use check::check;
pub use ctl::{Ctl, ctl};
pub use devices::devices;
pub use error::{CliError, one_line};
pub use flags::Devices;
pub use log::start_logging;
pub use page::Page;
pub use progress::Progress;
pub use sriov::{Sriov, sriov};

/// What the operator wants done.
#[derive(Debug)]
pub enum Command {
    /// Run a machine.
    Run(Box<Machine>),
    /// List the host's devices.
    Devices(Devices),
    /// Check whether the host can assign devices.
    Check,
    /// Hand devices to VFIO.
    Bind(Bind),
    /// Hand devices back to the host.
    Release(Release),
    /// Make or show virtual functions, with these settings.
    Sriov(Sriov, Vec<NumberedVf>),
    /// Control a running machine.
    Ctl(Ctl),
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
    let run = match flags.verb {
        flags::Verb::Run(run) => run,
        flags::Verb::Devices(what) => return Ok(Command::Devices(what)),
        flags::Verb::Check => return Ok(Command::Check),
        flags::Verb::Bind(bind) => return Ok(Command::Bind(bind)),
        flags::Verb::Release(release) => return Ok(Command::Release(release)),
        flags::Verb::Ctl(ctl) => {
            ctl.check()?;
            return Ok(Command::Ctl(ctl));
        }
        flags::Verb::Sriov(sriov) => {
            let settings = sriov.settings()?;
            return Ok(Command::Sriov(sriov, settings));
        }
    };
    let file = run.config.as_deref().map(config::load).transpose()?;
    let settings = run.settings()?.over(file.unwrap_or_default());
    Ok(Command::Run(Box::new(settings.validate()?)))
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
