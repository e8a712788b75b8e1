//! Where a disk's bytes are: the host's side of every emulated drive.
//!
//! A [`BlockBackend`] moves bytes between guest memory and the medium with no copy in
//! between. [`RawImage`] is one over a raw file or a block device. Every call may block;
//! a device calls from its own I/O thread, never from a vCPU's.

mod open;
mod raw;

use std::io;

use vm_memory::VolatileSlice;

pub use open::{OpenError, Reason};
pub use raw::RawImage;

/// Bytes in a sector as images are measured. Sizes are multiples of this.
pub const SECTOR: u64 = 512;

/// A read or write that went wrong part of the way.
#[derive(Debug, thiserror::Error)]
#[error("after {done} bytes")]
pub struct Failure {
    /// Bytes from the start that were moved before.
    pub done: u64,
    /// What the host said.
    #[source]
    pub source: io::Error,
}

/// A medium of bytes.
pub trait BlockBackend: Send + Sync {
    /// Size in bytes, a multiple of [`SECTOR`].
    fn len(&self) -> u64;

    /// No bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes are refused.
    fn is_readonly(&self) -> bool;

    /// Whether [`Self::discard`] may do something.
    fn can_discard(&self) -> bool;

    /// Fills every piece, in order, from `offset` on.
    fn read_vectored_at(&self, pieces: &[VolatileSlice<'_>], offset: u64) -> Result<(), Failure>;

    /// Writes every piece, in order, from `offset` on. May stay in a cache until
    /// [`Self::flush`].
    fn write_vectored_at(&self, pieces: &[VolatileSlice<'_>], offset: u64) -> Result<(), Failure>;

    /// When this returns, every write that returned before is on stable storage.
    fn flush(&self) -> io::Result<()>;

    /// Says that a range's contents are no longer needed. What it reads as afterwards is
    /// zeros or what it was. A backend that cannot free space succeeds and does nothing.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
}
