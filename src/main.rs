//! The `sluice` program: understands its command line, runs the machine, and says in one
//! line why it could not.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use sluice::cli::{self, Command, Page};
use sluice::host::Host;

fn main() -> ExitCode {
    match sluice() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice: error: {}", cli::one_line(&*error));
            ExitCode::FAILURE
        }
    }
}

fn sluice() -> Result<ExitCode, Box<dyn Error>> {
    cli::start_logging()?;
    match cli::parse(std::env::args_os())? {
        Command::Show(text) => show(&text),
        Command::Run(machine) => drop(sluice::machine::run(&machine)?),
        Command::Devices(what) => show(&cli::devices(&host(), &what, Page::stdout())?),
        Command::Check => {
            let (text, works) = cli::check(&host(), Page::stdout());
            show(&text);
            return Ok(if works {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Command::Bind(flags) => show(&cli::bind(&flags)?),
        Command::Release(flags) => show(&cli::release(&flags)?),
        Command::Ctl(flags) => show(&cli::ctl(&flags, Page::stdout())?),
        Command::Sriov(flags, settings) => show(&cli::sriov(&flags, &settings)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn host() -> Host {
    Host::this_machine()
}

/// A reader who has seen enough is no error.
fn show(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}
