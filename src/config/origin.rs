//! Where a setting was given, for errors to name.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a setting was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// On the command line; the flag with its dashes.
    Flag(&'static str),
    /// In a file.
    File {
        /// The file.
        path: Arc<Path>,
        /// Line, from 1.
        line: usize,
        /// The key there.
        key: &'static str,
    },
    /// Nowhere; the flag that would set it.
    Unset(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) | Self::Unset(flag) => f.write_str(flag),
            Self::File { path, line, key } => write!(f, "{}:{line}: {key}", path.display()),
        }
    }
}

/// A setting and where it was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Given<T> {
    /// The setting.
    pub value: T,
    /// Where it was given.
    pub origin: Origin,
}

impl<T> Given<T> {
    /// A setting given by `flag`.
    pub fn by_flag(flag: &'static str, value: T) -> Self {
        Self {
            value,
            origin: Origin::Flag(flag),
        }
    }
}
