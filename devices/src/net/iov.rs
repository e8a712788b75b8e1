//! Scatter-gather reads and writes straight over guest memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// Pieces that one call takes without allocating.
const INLINE: usize = 64;
/// The kernel's limit (`UIO_MAXIOV`).
pub(super) const MAX: usize = 1024;

/// Writes `heads` and then `body` with one system call; how many bytes it took.
pub(super) fn write(
    fd: BorrowedFd<'_>,
    heads: [&[u8]; 2],
    body: &[VolatileSlice<'_>],
) -> io::Result<usize> {
    let empty = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let count = heads.len() + body.len();
    if count > MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut inline = [empty; INLINE];
    let mut heap = Vec::new();
    let pieces = match inline.get_mut(..count) {
        Some(pieces) => pieces,
        None => {
            heap.resize(count, empty);
            &mut heap[..]
        }
    };
    let heads = heads.iter().map(|h| (h.as_ptr(), h.len()));
    let body = body.iter().map(|s| (s.ptr_guard().as_ptr(), s.len()));
    for (piece, (base, len)) in pieces.iter_mut().zip(heads.chain(body)) {
        *piece = libc::iovec {
            iov_base: base.cast_mut().cast(),
            iov_len: len,
        };
    }
    // SAFETY: every piece is a slice of ours or of guest memory, borrowed for this whole
    // function, and is only read; `count` fits a c_int.
    let wrote = unsafe { libc::writev(fd.as_raw_fd(), pieces.as_ptr(), count as libc::c_int) };
    usize::try_from(wrote).map_err(|_| io::Error::last_os_error())
}

/// Reads into `head` and then `body`; how many bytes came.
pub(super) fn read(fd: BorrowedFd<'_>, head: &mut [u8], body: &mut [u8]) -> io::Result<usize> {
    let pieces = [
        libc::iovec {
            iov_base: head.as_mut_ptr().cast(),
            iov_len: head.len(),
        },
        libc::iovec {
            iov_base: body.as_mut_ptr().cast(),
            iov_len: body.len(),
        },
    ];
    // SAFETY: both pieces are exclusive slices borrowed for this whole function.
    let got = unsafe { libc::readv(fd.as_raw_fd(), pieces.as_ptr(), 2) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}
