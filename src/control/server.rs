//! The machine's end of the control socket.
//!
//! Only its user may connect: the socket is made in a folder that nobody else may enter, given
//! its mode there, and then moved to its place. (A umask is the whole process's; a mode set
//! after binding leaves a moment in between.)

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::protocol::{MAX_LINE, answer, reply};
use super::{Code, Control, Refused};

/// How many may be connected at once.
const CLIENTS: usize = 8;
/// How long a client may take to read its answer.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another process listens there.
    #[error("{}: another process listens there; give this machine a path of its own", .0.display())]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{}: there is something that is no socket; remove it, or give another path", .0.display())]
    NoSocket(PathBuf),
    /// Paths of sockets are short.
    #[error("{}: the path of a socket can have 107 bytes at most", .0.display())]
    TooLong(PathBuf),
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
    path: PathBuf,
    /// Device and inode, so that another's socket is not removed in the end.
    identity: Option<(u64, u64)>,
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
        let listener = listen(path)?;
        let identity = fs::symlink_metadata(path)
            .ok()
            .map(|meta| (meta.dev(), meta.ino()));
        let end = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(ServerError::Start)?;
        let mut server = Self {
            path: path.to_owned(),
            identity,
            end: Arc::new(end),
            clients: Arc::default(),
            listener: None,
        };
        let (end, clients) = (server.end.clone(), server.clients.clone());
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &end, &clients, &machine))
            .map_err(ServerError::Start)?;
        server.listener = Some(thread);
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path).ok();
        if self.identity.is_some() && now.map(|meta| (meta.dev(), meta.ino())) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
        // Cannot be full: it is written once.
        let _ = self.end.write(1);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
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

fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    if path.as_os_str().len() > 107 {
        return Err(ServerError::TooLong(path.to_owned()));
    }
    make_room(path)?;
    let make = |source| ServerError::Make {
        path: path.to_owned(),
        source,
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let private =
        nix::unistd::mkdtemp(&folder.join(".sluice-XXXXXX")).map_err(|errno| make(errno.into()))?;
    let first = private.join("s");
    let bound = UnixListener::bind(&first).and_then(|listener| {
        fs::set_permissions(&first, Permissions::from_mode(0o600))?;
        fs::rename(&first, path)?;
        Ok(listener)
    });
    let _ = fs::remove_file(&first);
    let _ = fs::remove_dir(&private);
    bound.map_err(make)
}

/// Sees to it that there is nothing at `path`, or a socket that nobody listens at.
fn make_room(path: &Path) -> Result<(), ServerError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => Err(ServerError::NoSocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(ServerError::Taken(path.to_owned())),
            Err(_) => Ok(()),
        },
        Err(_) => Ok(()),
    }
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
        let _ = stream.write_all(reply(&Err(refused)).as_bytes());
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
        let mut line = Vec::new();
        let limit = MAX_LINE as u64 + 1;
        (&mut reader).take(limit).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        if line.len() > MAX_LINE {
            let refused = Refused::invalid(format!("a line has {MAX_LINE} bytes at most"));
            return stream.write_all(reply(&Err(refused)).as_bytes());
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        stream.write_all(answer(&line, machine).as_bytes())?;
    }
}

#[cfg(test)]
mod tests;
