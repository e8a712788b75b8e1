//! What can go wrong in the lab, said in one line to whoever runs it.

use std::fmt::Display;
use std::io;
use std::path::Path;

/// A failure, with the thing that failed named first.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, or to which file.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ended badly.
    #[error("`{program}` failed: {detail}")]
    Program {
        /// The program and its main arguments.
        program: String,
        /// Its exit status and the last of what it said.
        detail: String,
    },
    /// A test that cannot be tried here, and why.
    #[error("skipped: {0}")]
    Skipped(String),
    /// Anything else, already a sentence.
    #[error("{0}")]
    Other(String),
}

/// The lab's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Shorthand for a failure that is already a sentence.
pub fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Other(message.into()))
}

/// Puts a name to a failure of the system.
pub trait Context<T> {
    /// Says what was being done.
    fn context(self, what: impl Display) -> Result<T>;
    /// Says which file it was done to.
    fn path(self, path: &Path) -> Result<T>
    where
        Self: Sized,
    {
        self.context(path.display())
    }
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|source| Error::Io {
            what: what.to_string(),
            source: source.into(),
        })
    }
}
