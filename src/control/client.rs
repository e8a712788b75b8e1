//! The operator's end of the control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::protocol::Answer;
use super::{Refused, Request};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("no machine listens at {}; is it running, with --control path={}?", .path.display(), .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine ended.
    #[error("{}: the machine ended before it answered", .0.display())]
    Ended(PathBuf),
    /// The socket is something else's.
    #[error("{}: whoever listens there is no machine of Sluice's", .path.display())]
    Strange {
        /// The socket.
        path: PathBuf,
        /// What was not understood.
        #[source]
        source: serde_json::Error,
    },
    /// The machine says no.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// A connection to a machine.
pub struct Client {
    path: PathBuf,
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the machine that listens at `path`.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| ClientError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            reader: BufReader::new(stream),
        })
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, request: &Request) -> Result<Value, ClientError> {
        let ended = |_| ClientError::Ended(self.path.clone());
        let strange = |source| ClientError::Strange {
            path: self.path.clone(),
            source,
        };
        let line = serde_json::to_string(request).map_err(strange)? + "\n";
        // What it has to say is worth reading also when it does not listen any more.
        let _ = self.reader.get_mut().write_all(line.as_bytes());
        let mut answer = String::new();
        let read = self.reader.read_line(&mut answer).map_err(ended)?;
        if read == 0 {
            return Err(ClientError::Ended(self.path.clone()));
        }
        match serde_json::from_str(&answer).map_err(strange)? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(refused) => Err(refused.into()),
        }
    }
}
