//! A page of zeros that the guest may read in place of the statistics registers.
//!
//! Drivers read all of these every two seconds (Linux 55 of them), traffic or not, and each
//! read is an exit: most of those of an idle guest. Their page (8254x SDM §13.7) holds
//! nothing else, and while every counter is zero, reading memory that is zero is reading
//! them. So when no packet came or went for a while and the guest has read, and so cleared,
//! all of them, the page is mapped; the first packet takes it away again. A read in between
//! misses what was just counted and loses nothing: it does not clear the counters.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::bus::Mapping;
use crate::time::Nanos;

/// Bytes in a page.
const SIZE: usize = 4096;
/// How long there must have been no traffic.
pub const QUIET: Nanos = 4_000_000_000;

/// A page that reads as zero.
pub struct QuietPage(NonNull<libc::c_void>);

// SAFETY: the page is never written, and unmapped only when dropped.
unsafe impl Send for QuietPage {}
// SAFETY: as above.
unsafe impl Sync for QuietPage {}

impl QuietPage {
    /// Makes one.
    pub fn new() -> io::Result<Self> {
        let size = NonZeroUsize::new(SIZE).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: a new private mapping, at an address of the kernel's choice.
        let page =
            unsafe { mmap_anonymous(None, size, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE) };
        Ok(Self(page?))
    }
}

impl Drop for QuietPage {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, whole, and nobody has it any more.
        let _ = unsafe { munmap(self.0, SIZE) };
    }
}

impl Mapping for QuietPage {
    fn host_address(&self) -> usize {
        self.0.as_ptr() as usize
    }

    fn len(&self) -> usize {
        SIZE
    }

    fn writable(&self) -> bool {
        false
    }
}
