//! Where the guest's serial port leads: standard input and output, a file, or a socket.
//!
//! Output goes through the port's own writer thread; input comes from a thread here, which
//! reads no faster than the guest does.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use devices::platform::serial::{Serial, Writer};

use super::requests::{Request, Requests};
use super::terminal::{EscapeFilter, RawTerminal};
use crate::config;

/// How long output that a slow reader has not taken may delay the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// The serial port cannot lead where the operator wants it.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// A file or socket could not be made.
    #[error("--serial {kind}={}: cannot create it", path.display())]
    Create {
        /// `file` or `socket`.
        kind: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something that is no socket of ours is at the socket's path.
    #[error("--serial socket={}: something is there already; remove it or name another path", path.display())]
    Taken {
        /// Its path.
        path: PathBuf,
    },
    /// The terminal or a thread refused.
    #[error("--serial: cannot set up the console")]
    Setup(#[from] io::Error),
}

/// The operator's end of the serial port.
pub struct Console {
    writer: Arc<Writer>,
    source: Source,
    room: Arc<Room>,
    /// Put back when the console is dropped.
    terminal: Option<RawTerminal>,
}

enum Source {
    None,
    Stdin,
    Socket {
        listener: UnixListener,
        path: PathBuf,
        peer: Arc<Mutex<Option<UnixStream>>>,
    },
}

/// Lets the input thread wait until the guest takes bytes again.
#[derive(Default)]
struct Room {
    ready: Mutex<bool>,
    changed: Condvar,
}

impl Room {
    fn announce(&self) {
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(ready, |ready| !*ready);
        *waited.unwrap_or_else(PoisonError::into_inner) = false;
    }
}

impl Console {
    /// Opens what `--serial` names.
    pub fn open(serial: &config::Serial) -> Result<Self, ConsoleError> {
        let room = Arc::new(Room::default());
        let announce = {
            let room = room.clone();
            move || room.announce()
        };
        let (writer, source, terminal) = match serial {
            config::Serial::Stdio => {
                let terminal = RawTerminal::enter().map_err(io::Error::from)?;
                (
                    Writer::spawn(io::stdout(), announce)?,
                    Source::Stdin,
                    terminal,
                )
            }
            config::Serial::File(path) => {
                let file = File::create(path).map_err(|source| ConsoleError::Create {
                    kind: "file",
                    path: path.clone(),
                    source,
                })?;
                (Writer::spawn(file, announce)?, Source::None, None)
            }
            config::Serial::Socket(path) => {
                let listener = listen(path)?;
                let peer = Arc::new(Mutex::new(None));
                let sink = ToPeer(peer.clone());
                let source = Source::Socket {
                    listener,
                    path: path.clone(),
                    peer,
                };
                (Writer::spawn(sink, announce)?, source, None)
            }
        };
        Ok(Self {
            writer,
            source,
            room,
            terminal,
        })
    }

    /// What the port writes to.
    pub fn writer(&self) -> Arc<Writer> {
        self.writer.clone()
    }

    /// Joins the port's input to the console's.
    pub fn start(&self, port: &Arc<Serial>, requests: &Arc<Requests>) -> io::Result<()> {
        self.writer.attach(port);
        let sink = Input {
            port: port.clone(),
            room: self.room.clone(),
        };
        let thread = std::thread::Builder::new().name("serial-input".into());
        match &self.source {
            Source::None => {}
            Source::Stdin => {
                // Escapes are for a person; a script's bytes all go to the guest.
                let requests = self.terminal.is_some().then(|| requests.clone());
                thread.spawn(move || from_stdin(&sink, requests))?;
            }
            Source::Socket { listener, peer, .. } => {
                let (listener, peer) = (listener.try_clone()?, peer.clone());
                thread.spawn(move || from_socket(&sink, &listener, &peer))?;
            }
        }
        Ok(())
    }

    /// Writes out what the guest said last.
    pub fn finish(&self) {
        if !self.writer.finish(PATIENCE) {
            tracing::warn!("the end of the serial output was not taken and is lost");
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Source::Socket { path, .. } = &self.source {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Listens at `path`. A socket that nobody listens at any more (a killed sluice's) is
/// replaced.
fn listen(path: &Path) -> Result<UnixListener, ConsoleError> {
    let create = |source| ConsoleError::Create {
        kind: "socket",
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() && UnixStream::connect(path).is_err() => {
            std::fs::remove_file(path).map_err(create)?;
        }
        Ok(_) => {
            return Err(ConsoleError::Taken {
                path: path.to_owned(),
            });
        }
        Err(_) => {}
    }
    UnixListener::bind(path).map_err(create)
}

/// The port's receiving side.
struct Input {
    port: Arc<Serial>,
    room: Arc<Room>,
}

impl Input {
    /// Gives the guest all of `bytes`, as fast as it takes them.
    fn push(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.port.receive(bytes);
            bytes = &bytes[taken..];
            if !bytes.is_empty() {
                self.room.wait();
            }
        }
    }

    /// Reads `source` to its end.
    fn pump(&self, mut source: impl Read, mut filter: impl FnMut(&[u8]) -> Vec<u8>) {
        let mut buffer = [0; 512];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => self.push(&filter(&buffer[..len])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return tracing::debug!(%error, "no more serial input"),
            }
        }
    }
}

fn from_stdin(sink: &Input, requests: Option<Arc<Requests>>) {
    let mut filter = EscapeFilter::default();
    sink.pump(io::stdin(), |bytes| {
        let Some(requests) = &requests else {
            return bytes.to_vec();
        };
        let typed = filter.feed(bytes);
        if typed.quit {
            requests.ask(Request::Quit("stopped from the console (Ctrl-A x)".into()));
        }
        typed.bytes
    });
}

/// Serves one client after the other.
fn from_socket(sink: &Input, listener: &UnixListener, peer: &Mutex<Option<UnixStream>>) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let Ok(output) = client.try_clone() else {
            continue;
        };
        *peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(output);
        sink.pump(client, <[u8]>::to_vec);
        *peer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Output to the socket's client, lost while there is none.
struct ToPeer(Arc<Mutex<Option<UnixStream>>>);

impl Write for ToPeer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let peer = {
            let peer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            peer.as_ref().and_then(|peer| peer.try_clone().ok())
        };
        // A client that went away is as none.
        Ok(peer
            .and_then(|mut peer| peer.write(bytes).ok())
            .unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use devices::irq::{IrqLine, LineSink};
    use devices::platform::serial::COM1;

    use super::*;
    use crate::vcpu::Gate;

    struct NoLine;
    impl LineSink for NoLine {
        fn set(&self, _: bool) {}
    }

    fn port(console: &Console) -> Arc<Serial> {
        Arc::new(Serial::new(
            COM1,
            IrqLine::new(Arc::new(NoLine)),
            console.writer(),
        ))
    }

    #[test]
    fn a_client_of_the_socket_talks_with_the_port() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        let console = Console::open(&config::Serial::Socket(path.clone())).unwrap();
        let port = port(&console);
        let requests = Arc::new(Requests::new(Arc::new(Gate::default())).unwrap());
        console.start(&port, &requests).unwrap();
        let registers = port.ports().remove(0).region;

        let mut client = UnixStream::connect(&path).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        client.write_all(&[b'x'; 40]).unwrap();
        let mut status = [0];
        let mut got = 0;
        while got < 40 {
            registers.read(5, &mut status);
            if status[0] & 1 != 0 {
                registers.read(0, &mut status);
                assert_eq!(status[0], b'x');
                got += 1;
            }
        }
        registers.write(0, b"y");
        let mut answer = [0];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"y");
        drop(console);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_in_use_is_refused_and_a_dead_socket_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        drop(UnixListener::bind(&path).unwrap());
        let first = Console::open(&config::Serial::Socket(path.clone())).unwrap();
        let second = Console::open(&config::Serial::Socket(path.clone()));
        assert!(matches!(second, Err(ConsoleError::Taken { .. })));
        drop(first);
        std::fs::write(&path, "precious").unwrap();
        let over_file = Console::open(&config::Serial::Socket(path.clone()));
        assert!(matches!(over_file, Err(ConsoleError::Taken { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
