//! Errors as the operator sees them: one line.

use std::error::Error;

use crate::config::{ConfigError, FileError, OptionError};

/// The command line, the file it names, or what both ask for is wrong.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Not a command line of ours.
    #[error("{0}; see sluice --help")]
    Usage(String),
    /// A flag's value cannot be read.
    #[error("{flag} {text}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// Its value.
        text: String,
        /// What is wrong.
        #[source]
        source: OptionError,
    },
    /// The file is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// The settings cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `SLUICE_LOG` cannot be read.
    #[error("SLUICE_LOG={text}; write a level such as debug, or target=level,…")]
    Log {
        /// Its value.
        text: String,
        /// What is wrong.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
}

impl CliError {
    /// What clap says, without its page.
    pub(super) fn usage(error: &clap::Error) -> Self {
        let page = error.render().to_string();
        let first = page.split("\n\n").next().unwrap_or_default();
        let first = first.strip_prefix("error: ").unwrap_or(first);
        Self::Usage(words(first))
    }
}

/// An error and its causes as one line: `what: cause: cause`.
pub fn one_line(error: &dyn Error) -> String {
    let mut line = words(&error.to_string());
    let mut next = error.source();
    while let Some(cause) = next {
        let text = words(&cause.to_string());
        // Some errors tell their cause themselves.
        if !text.is_empty() && !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
