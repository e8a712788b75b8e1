//! Opening an image so that what is wrong with it is said in one line.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// An image that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("disk image {}: {reason}", .path.display())]
pub struct OpenError {
    /// The image, as the operator named it.
    pub path: PathBuf,
    /// What is wrong, and what to do about it.
    pub reason: Reason,
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// Nothing has that name.
    #[error("no such file; check the path, or make an empty disk with 'truncate -s 10G FILE'")]
    Missing,
    /// The host's permissions forbid it.
    #[error("permission denied; run as a user who may {0} it")]
    Denied(&'static str),
    /// The file or its file system cannot be written.
    #[error("cannot be written (read-only file system or device); add ',readonly'")]
    ReadOnly,
    /// A directory, a socket, a terminal.
    #[error("is {0}; give a raw image file or a block device")]
    NotAnImage(&'static str),
    /// No bytes.
    #[error("is empty; give it a size, such as with 'truncate -s 10G FILE'")]
    Empty,
    /// Another process (or another drive of this one) has it locked.
    #[error(
        "is in use by another sluice (or twice by this one); end that one, or open it ',readonly' in both"
    )]
    InUse,
    /// Whatever else the host says.
    #[error("cannot be opened: {0}")]
    Io(io::Error),
}

/// Opens and locks `path`: shared if `readonly`, exclusively otherwise. The lock belongs to
/// the open file and goes with it, also when the process is killed.
pub(super) fn open(path: &Path, readonly: bool) -> Result<File, Reason> {
    // Looked at first, as opening a FIFO would wait for its other end.
    image_kind(&std::fs::metadata(path).map_err(|e| reason(e, readonly))?)?;
    let file = OpenOptions::new()
        .read(true)
        .write(!readonly)
        .open(path)
        .map_err(|e| reason(e, readonly))?;
    image_kind(&file.metadata().map_err(Reason::Io)?)?;
    lock(&file, readonly)?;
    Ok(file)
}

fn reason(error: io::Error, readonly: bool) -> Reason {
    match error.kind() {
        io::ErrorKind::NotFound => Reason::Missing,
        io::ErrorKind::PermissionDenied if readonly => Reason::Denied("read"),
        io::ErrorKind::PermissionDenied => Reason::Denied("read and write"),
        io::ErrorKind::ReadOnlyFilesystem => Reason::ReadOnly,
        _ => Reason::Io(error),
    }
}

fn image_kind(metadata: &Metadata) -> Result<(), Reason> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    Err(Reason::NotAnImage(if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "no regular file"
    }))
}

/// Takes an open file description lock on the whole file (fcntl(2), `F_OFD_SETLK`).
fn lock(file: &File, shared: bool) -> Result<(), Reason> {
    let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
    let whole = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(Reason::InUse),
        // A file system with no locks (some network ones): there is nothing to protect with.
        Err(Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            tracing::warn!(
                fd = file.as_raw_fd(),
                "this file system has no locks; nothing keeps a second sluice from the image"
            );
            Ok(())
        }
        Err(other) => Err(Reason::Io(other.into())),
    }
}
