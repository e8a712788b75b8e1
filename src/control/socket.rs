//! The socket that a machine is controlled at: nobody's but its owner's, and gone with it.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

use super::ServerError;
use crate::config::{Site, check_socket_path};

/// Read and write for the owner alone: connecting takes the right to write.
const MODE: u32 = 0o600;

/// A socket that is listened on. Its file is removed when this is dropped.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, by which it is known to be ours.
    identity: (u64, u64),
}

impl Socket {
    /// Listens at `path`. What an ended process left there is replaced.
    pub fn listen(path: &Path) -> Result<Self, ServerError> {
        let site = check_socket_path(path)?;
        let made = replace(site, path).and_then(|()| make(path));
        made.map_err(|source| ServerError::Make {
            path: path.to_owned(),
            source,
        })
    }

    /// Where clients come in.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

fn replace(site: Site, path: &Path) -> io::Result<()> {
    match site {
        Site::Empty => Ok(()),
        Site::Abandoned => fs::remove_file(path),
    }
}

/// The file gets its mode from the socket, less what the umask takes (`unix_bind_bsd` in the
/// kernel), so the mode is set before there is a file. The umask itself is the whole process's
/// and other threads make files too, so it is left alone. Where a kernel does otherwise, or the
/// umask takes the owner's own rights, the file's mode is set once more before anybody is
/// listened to: until then the kernel lets nobody connect, whatever the mode.
fn make(path: &Path) -> io::Result<Socket> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&socket, Mode::from_bits_truncate(MODE))?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    opened(socket, path).inspect_err(|_| drop(fs::remove_file(path)))
}

fn opened(socket: OwnedFd, path: &Path) -> io::Result<Socket> {
    let there = fs::symlink_metadata(path)?;
    if there.permissions().mode() & 0o7777 != MODE {
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
    }
    listen(&socket, Backlog::new(16)?)?;
    Ok(Socket {
        listener: UnixListener::from(socket),
        path: path.to_owned(),
        identity: (there.dev(), there.ino()),
    })
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another's that has come to this path stays.
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn it_is_its_owners_alone_and_goes_with_its_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ctl");
        let socket = Socket::listen(&path).unwrap();
        assert_eq!(mode(&path), MODE);
        drop(UnixStream::connect(&path).unwrap());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_has_its_mode_before_it_has_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ctl");
        let flags = SockFlag::SOCK_CLOEXEC;
        let plain = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        fchmod(&plain, Mode::from_bits_truncate(MODE)).unwrap();
        bind(plain.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        assert_eq!(mode(&path), MODE);
        let refused = UnixStream::connect(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_dead_one_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ctl");
        drop(UnixListener::bind(&path).unwrap());
        let first = Socket::listen(&path).unwrap();
        let Err(second) = Socket::listen(&path) else {
            panic!("two listen at one path")
        };
        let line = crate::cli::one_line(&second);
        assert!(line.contains("another process listens"), "{line}");
        assert!(line.contains(path.to_str().unwrap()), "{line}");
        drop(UnixStream::connect(&path).unwrap());
        drop(first);
        fs::write(&path, "precious").unwrap();
        assert!(Socket::listen(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn what_has_come_to_its_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ctl");
        let socket = Socket::listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
    }
}
