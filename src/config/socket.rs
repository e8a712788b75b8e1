//! Whether a socket can be made at a path.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// What `sun_path` of `struct sockaddr_un` holds beside the zero at its end (unix(7)).
const LONGEST: usize = 107;

/// No socket can be made at a path.
#[derive(Debug, thiserror::Error)]
pub enum SocketPathError {
    /// It does not fit into a socket's address.
    #[error(
        "{} is too long for a socket, {} bytes of at most {LONGEST}; name a shorter path",
        .0.display(), .0.as_os_str().len()
    )]
    TooLong(PathBuf),
    /// It names no file.
    #[error("{} names no file; write a path such as /run/vm.ctl", .0.display())]
    NoName(PathBuf),
    /// There is no folder to make it in.
    #[error("there is no folder {}; make it, or name another path", .0.display())]
    NoFolder(PathBuf),
    /// Something else is there.
    #[error("{} is there already and is no socket; remove it, or name another path", .0.display())]
    NoSocket(PathBuf),
    /// Somebody listens there.
    #[error("at {} another process listens; name another path", .0.display())]
    InUse(PathBuf),
    /// What is there cannot be looked at.
    #[error("cannot look at {}", .path.display())]
    Look {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is at the path of a socket that is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Site {
    /// Nothing.
    Empty,
    /// A socket that nobody listens at any more, such as a killed process's.
    Abandoned,
}

/// Checks that a socket can be made at `path`, and says what is there now.
pub fn check_socket_path(path: &Path) -> Result<Site, SocketPathError> {
    let named = || path.to_owned();
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > LONGEST {
        return Err(SocketPathError::TooLong(named()));
    }
    // A name with a slash after it is a folder's.
    if path.file_name().is_none() || bytes.ends_with(b"/") {
        return Err(SocketPathError::NoName(named()));
    }
    let folder = path.parent().filter(|p| *p != OsStr::new(""));
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(SocketPathError::NoFolder(folder.to_owned()));
    }
    let look = |source| SocketPathError::Look {
        path: named(),
        source,
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Site::Empty),
        Err(error) => Err(look(error)),
        Ok(there) if !there.file_type().is_socket() => Err(SocketPathError::NoSocket(named())),
        Ok(_) => match knock(path) {
            Err(Errno::ECONNREFUSED) => Ok(Site::Abandoned),
            // It has gone by itself.
            Err(Errno::ENOENT) => Ok(Site::Empty),
            // It may be full, or be of another type: somebody's in any case.
            Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Err(SocketPathError::InUse(named())),
            Err(error) => Err(look(error.into())),
        },
    }
}

/// Connects, without waiting.
fn knock(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(
        std::os::fd::AsRawFd::as_raw_fd(&socket),
        &UnixAddr::new(path)?,
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn what_may_be_replaced_and_what_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ctl");
        assert_eq!(check_socket_path(&path).unwrap(), Site::Empty);
        let live = UnixListener::bind(&path).unwrap();
        let error = check_socket_path(&path).unwrap_err().to_string();
        assert!(error.contains("another process listens"), "{error}");
        drop(live);
        assert_eq!(check_socket_path(&path).unwrap(), Site::Abandoned);
        fs::remove_file(&path).unwrap();
        let _other = UnixDatagram::bind(&path).unwrap();
        let error = check_socket_path(&path).unwrap_err();
        assert!(matches!(error, SocketPathError::InUse(_)), "{error}");
    }

    #[test]
    fn somebody_who_is_too_busy_is_somebody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ctl");
        let _live = UnixListener::bind(&path).unwrap();
        // Until the kernel's queue for it is full.
        let waiting: Vec<_> = (0..5000).map_while(|_| queued(&path)).collect();
        assert!(waiting.len() < 5000, "the queue has no end");
        let error = check_socket_path(&path).unwrap_err();
        assert!(matches!(error, SocketPathError::InUse(_)), "{error}");
    }

    fn queued(path: &Path) -> Option<std::os::fd::OwnedFd> {
        let flags = SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
        let address = UnixAddr::new(path).ok()?;
        connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address).ok()?;
        Some(socket)
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "precious").unwrap();
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        let long = at(&"x".repeat(LONGEST));
        for (path, says) in [
            (at("none/ctl"), "there is no folder"),
            (at("file/ctl"), "there is no folder"),
            (at("file"), "is no socket"),
            (at("link"), "is no socket"),
            (folder.path().to_owned(), "is no socket"),
            (at("ctl/"), "names no file"),
            (at("ctl/.."), "names no file"),
            (at("a\0b"), "cannot look at"),
            (long, "too long for a socket"),
        ] {
            let error = check_socket_path(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
        }
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
        assert_eq!(
            check_socket_path(Path::new("no-such-ctl")).unwrap(),
            Site::Empty
        );
    }
}
