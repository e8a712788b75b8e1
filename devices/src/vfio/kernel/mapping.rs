//! A part of a BAR in this process's memory.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::open::Handle;
use crate::bus::Mapping;
use crate::vfio::backend::PAGE;

/// The largest page that KVM maps a BAR with.
const HUGE: u64 = 1 << 30;

/// A mapping of a BAR. It keeps the device open: the kernel would not let its group go
/// while it is mapped.
pub(super) struct DeviceMapping {
    address: NonNull<nix::libc::c_void>,
    len: usize,
    writable: bool,
    _device: Arc<Handle>,
}

// SAFETY: the address is only told, never dereferenced here, and `munmap` may be called from
// any thread.
unsafe impl Send for DeviceMapping {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for DeviceMapping {}

impl DeviceMapping {
    /// Maps `len` bytes at `at` in the device's file, which are at `offset` in their BAR.
    pub fn new(
        device: Arc<Handle>,
        at: u64,
        len: usize,
        offset: u64,
        writable: bool,
    ) -> io::Result<Self> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let place = Place::reserve(size, offset)?;
        let write = if writable {
            ProtFlags::PROT_WRITE
        } else {
            ProtFlags::empty()
        };
        // SAFETY: `device` owns the descriptor and is kept by the mapping.
        let fd = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
        // SAFETY: MAP_FIXED replaces only memory of `place`, which nothing else uses.
        let address = unsafe {
            mmap(
                Some(place.address),
                size,
                ProtFlags::PROT_READ | write,
                MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
                fd,
                at as nix::libc::off_t,
            )
        }?;
        place.keep();
        Ok(Self {
            address,
            len,
            writable,
            _device: device,
        })
    }
}

impl Drop for DeviceMapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and is this object's alone. Whoever was told
        // the address held on to the object while using it.
        if let Err(error) = unsafe { munmap(self.address, self.len) } {
            tracing::warn!(%error, "cannot unmap a BAR");
        }
    }
}

impl Mapping for DeviceMapping {
    fn host_address(&self) -> usize {
        self.address.as_ptr() as usize
    }

    fn len(&self) -> usize {
        self.len
    }

    fn writable(&self) -> bool {
        self.writable
    }

    fn is_device(&self) -> bool {
        true
    }
}

/// Address space that is reserved and not yet used.
struct Place {
    address: NonZeroUsize,
    len: usize,
}

impl Place {
    /// Reserves `size` bytes at an address that is congruent to `offset` modulo the largest
    /// page that fits, so that guest-physical and host addresses line up and KVM can use
    /// large pages. A BAR is aligned to its size in the guest.
    fn reserve(size: NonZeroUsize, offset: u64) -> io::Result<Self> {
        let align = (1 << size.ilog2()).clamp(PAGE, HUGE) as usize;
        let room = size.checked_add(align).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a fresh anonymous mapping, at a place of the kernel's choosing.
        let start = unsafe {
            mmap_anonymous(
                None,
                room,
                ProtFlags::PROT_NONE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }?;
        let start = start.as_ptr() as usize;
        let skip = (offset as usize).wrapping_sub(start) & (align - 1);
        let address = start + skip;
        give_back(start, skip);
        give_back(address + size.get(), align - skip);
        Ok(Self {
            address: NonZeroUsize::new(address).ok_or(io::ErrorKind::InvalidInput)?,
            len: size.get(),
        })
    }

    /// Something else is there now, which has its own owner.
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        give_back(self.address.get(), self.len);
    }
}

fn give_back(start: usize, len: usize) {
    let Some(start) = NonNull::new(start as *mut nix::libc::c_void) else {
        return;
    };
    if len > 0 {
        // SAFETY: the range is part of a reservation of `Place::reserve` that nothing uses.
        let _ = unsafe { munmap(start, len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_line_up_with_the_bar() {
        for (len, offset, align) in [
            (0x1000, 0x3000, 0x1000),
            (0x20_0000, 0, 0x20_0000),
            (0x1f_d000, 0x3000, 0x10_0000),
            (1 << 31, 0, 1 << 30),
        ] {
            let place = Place::reserve(NonZeroUsize::new(len).unwrap(), offset as u64).unwrap();
            assert_eq!(place.address.get() % align, offset % align, "{len:#x}");
        }
    }
}
