//! The `sluice` program: understands its command line, runs the machine, and says in one
//! line why it could not.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use sluice::cli::{self, Command};

fn main() -> ExitCode {
    match sluice() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: error: {}", cli::one_line(&*error));
            ExitCode::FAILURE
        }
    }
}

fn sluice() -> Result<(), Box<dyn Error>> {
    cli::start_logging()?;
    match cli::parse(std::env::args_os())? {
        // A reader who has seen enough is no error.
        Command::Show(text) => drop(std::io::stdout().write_all(text.as_bytes())),
        Command::Run(machine) => drop(sluice::machine::run(&machine)?),
    }
    Ok(())
}
