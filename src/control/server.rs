//! The machine's end of the control socket.

use std::io::{self, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::lines::{self, Line};
use super::protocol::{MAX_LINE, answer, reply};
use super::socket::Socket;
use super::{Code, Control, Refused};
use crate::config::SocketPathError;

/// How many may be connected at once.
const CLIENTS: usize = 8;
/// How long a client may take to read its answer.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// None can be at that path.
    #[error(transparent)]
    Path(#[from] SocketPathError),
    /// It cannot be made.
    #[error("{}: cannot make a socket there", .path.display())]
    Make {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread or event.
    #[error("cannot listen for control")]
    Start(#[source] io::Error),
}

/// A listening control socket, until dropped.
pub struct Server {
    socket: Option<Arc<Socket>>,
    end: Arc<EventFd>,
    clients: Arc<Mutex<Clients>>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Clients {
    ended: bool,
    all: Vec<(UnixStream, JoinHandle<()>)>,
}

impl Server {
    /// Listens at `path` for what is asked of `machine`.
    pub fn start(path: &Path, machine: Arc<dyn Control>) -> Result<Self, ServerError> {
        let socket = Arc::new(Socket::listen(path)?);
        let end = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(ServerError::Start)?;
        let mut server = Self {
            socket: Some(socket.clone()),
            end: Arc::new(end),
            clients: Arc::default(),
            listener: None,
        };
        let (end, clients) = (server.end.clone(), server.clients.clone());
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(socket.listener(), &end, &clients, &machine))
            .map_err(ServerError::Start)?;
        server.listener = Some(thread);
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Cannot be full: it is written once.
        let _ = self.end.write(1);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        // Nobody else shall come and wait.
        self.socket = None;
        let clients = {
            let mut clients = lock(&self.clients);
            clients.ended = true;
            std::mem::take(&mut clients.all)
        };
        for (stream, thread) in clients {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            let _ = thread.join();
        }
    }
}

fn lock(clients: &Mutex<Clients>) -> MutexGuard<'_, Clients> {
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(
    listener: &UnixListener,
    end: &EventFd,
    clients: &Arc<Mutex<Clients>>,
    machine: &Arc<dyn Control>,
) {
    // SAFETY: the descriptor is the event's own and open as long as the borrow of it.
    let ending = unsafe { BorrowedFd::borrow_raw(end.as_raw_fd()) };
    loop {
        let mut fds = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(ending, PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => (),
            Err(Errno::EINTR) => continue,
            Err(error) => return tracing::error!(%error, "the control socket is deaf"),
        }
        if fds[1].any().unwrap_or(true) {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => welcome(stream, clients, machine),
            Err(error) => {
                tracing::warn!(%error, "a control connection failed");
                // Out of descriptors, in all likelihood: others may free some.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn welcome(mut stream: UnixStream, clients: &Arc<Mutex<Clients>>, machine: &Arc<dyn Control>) {
    let _ = stream.set_write_timeout(Some(WRITE_PATIENCE));
    let mut known = lock(clients);
    known.all.retain(|(_, thread)| !thread.is_finished());
    if known.ended {
        return;
    }
    if known.all.len() >= CLIENTS {
        let refused = Refused {
            code: Code::Unavailable,
            message: format!("{CLIENTS} are connected already; close one"),
        };
        let _ = stream.write_all(reply(&Err(refused), None).as_bytes());
        return;
    }
    let Ok(own) = stream.try_clone() else { return };
    let machine = machine.clone();
    let serving = std::thread::Builder::new()
        .name("control-client".into())
        .spawn(move || {
            // However it ends, that is the client's business.
            let _ = serve(&own, &*machine);
            let _ = own.shutdown(std::net::Shutdown::Both);
        });
    match serving {
        Ok(thread) => known.all.push((stream, thread)),
        Err(error) => tracing::error!(%error, "no thread for a control connection"),
    }
}

fn serve(mut stream: &UnixStream, machine: &dyn Control) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let said = match lines::next(&mut reader, MAX_LINE)? {
            Line::End => return Ok(()),
            Line::Whole(line) if line.trim_ascii().is_empty() => continue,
            Line::Whole(line) => answer(&line, machine),
            Line::TooLong => {
                let why = format!("a line has {MAX_LINE} bytes at most");
                reply(&Err(Refused::invalid(why)), None)
            }
        };
        stream.write_all(said.as_bytes())?;
    }
}

#[cfg(test)]
mod tests;
