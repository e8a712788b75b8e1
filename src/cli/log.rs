//! Log output: standard error, warnings and worse unless `SLUICE_LOG` says otherwise.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::CliError;

const VARIABLE: &str = "SLUICE_LOG";

/// Starts log output for this process. To be called once.
pub fn start_logging() -> Result<(), CliError> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    let filter = filter(&text)?;
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
    // Somebody else's subscriber is there already: it is theirs to show the log.
    drop(started);
    Ok(())
}

fn filter(text: &str) -> Result<EnvFilter, CliError> {
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
    builder.parse(text).map_err(|source| CliError::Log {
        text: text.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_the_default_and_filters_are_read() {
        assert_eq!(filter("").unwrap().to_string(), "warn");
        assert_eq!(filter("debug").unwrap().to_string(), "debug");
        let both = filter("sluice=trace,devices=info").unwrap();
        assert!(both.to_string().contains("devices=info"));
        let error = filter("sluice=loud").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("SLUICE_LOG=sluice=loud; write")
        );
    }
}
