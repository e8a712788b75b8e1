//! Writes that KVM queues instead of exiting (KVM API, `KVM_REGISTER_COALESCED_MMIO`).
//!
//! One ring per VM, in a page that every vCPU's mapping shows. The kernel adds, we take.
//! Whoever dispatches an exit empties the ring first, so the guest cannot tell that its
//! writes waited.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

const PAGE: usize = 4096;
/// Entries that fit in the page behind the two indices.
const CAPACITY: u32 =
    ((PAGE - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>()) as u32;

/// A queued write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeferredWrite {
    /// Port number or guest-physical address.
    pub address: u64,
    /// To a port, not to memory.
    pub is_port: bool,
    len: u8,
    bytes: [u8; 8],
}

impl DeferredWrite {
    /// The bytes written.
    pub fn data(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The reader's end of the ring.
pub struct CoalescedRing {
    page: NonNull<kvm_coalesced_mmio_ring>,
    reader: Mutex<()>,
    /// A write was taken and is not yet given out.
    giving: AtomicBool,
}

thread_local! {
    /// This thread is inside `drain`: a device that flushes from within a write it was
    /// given must not wait for itself.
    static DRAINING: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: the page is shared with the kernel by design; `first` and `last` are only accessed
// atomically, and entries only by the holder of `reader`.
unsafe impl Send for CoalescedRing {}
// SAFETY: as above.
unsafe impl Sync for CoalescedRing {}

impl CoalescedRing {
    /// Maps the ring. `page_offset` is what `KVM_CAP_COALESCED_MMIO` says: the ring's page
    /// within a vCPU's mapping.
    pub fn map(vcpu: impl AsFd, page_offset: i64) -> nix::Result<Self> {
        let len = NonZeroUsize::new(PAGE).unwrap_or(NonZeroUsize::MIN);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let page = unsafe {
            mmap(
                None,
                len,
                protection,
                MapFlags::MAP_SHARED,
                vcpu,
                page_offset * PAGE as i64,
            )?
        };
        Ok(Self {
            page: page.cast(),
            reader: Mutex::new(()),
            giving: AtomicBool::new(false),
        })
    }

    fn first(&self) -> &AtomicU32 {
        // SAFETY: within the mapped page, aligned, and accessed atomically by both sides.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.page.as_ptr()).first) }
    }

    fn last(&self) -> &AtomicU32 {
        // SAFETY: as for `first`.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.page.as_ptr()).last) }
    }

    /// Takes every queued write in order and gives it to `each`. Costs three loads when
    /// nothing is queued. When another thread is at it, waits until that is done: on return
    /// all that was queued before the call has been given out. From within `each` it does
    /// nothing.
    pub fn drain(&self, mut each: impl FnMut(DeferredWrite)) {
        let idle = self.first().load(Ordering::Acquire) == self.last().load(Ordering::Acquire)
            && !self.giving.load(Ordering::Acquire);
        if idle || DRAINING.get() {
            return;
        }
        let _reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        DRAINING.set(true);
        self.giving.store(true, Ordering::Relaxed);
        // Bounded: a vCPU that keeps writing must not hold this thread for ever.
        for _ in 0..2 * CAPACITY {
            let Some(write) = self.take() else { break };
            each(write);
        }
        self.giving.store(false, Ordering::Release);
        DRAINING.set(false);
    }

    /// Takes the oldest entry. Only for the holder of `reader`.
    fn take(&self) -> Option<DeferredWrite> {
        let first = self.first().load(Ordering::Relaxed);
        if first == self.last().load(Ordering::Acquire) || first >= CAPACITY {
            return None;
        }
        // SAFETY: `first` is below CAPACITY, so the entry lies within the page; the kernel
        // does not touch entries from `first` up to `last`.
        let entry = unsafe {
            let entries = &raw const (*self.page.as_ptr()).coalesced_mmio;
            entries
                .cast::<kvm_coalesced_mmio>()
                .add(first as usize)
                .read_volatile()
        };
        self.first()
            .store((first + 1) % CAPACITY, Ordering::Release);
        Some(DeferredWrite::from_entry(&entry))
    }
}

impl DeferredWrite {
    fn from_entry(entry: &kvm_coalesced_mmio) -> Self {
        // SAFETY: `pio` and `pad` are the same u32 under two names.
        let is_port = unsafe { entry.__bindgen_anon_1.pio } != 0;
        Self {
            address: entry.phys_addr,
            is_port,
            len: entry.len.min(8) as u8,
            bytes: entry.data,
        }
    }
}

impl Drop for CoalescedRing {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, and nobody holds a reference into it.
        let _ = unsafe { munmap(self.page.cast(), PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// The kernel's side, written into a plain file that the ring maps.
    fn file_with(first: u32, last: u32, entries: &[(u32, u64, u32, u8)]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGE as u64).unwrap();
        file.write_at(&first.to_le_bytes(), 0).unwrap();
        file.write_at(&last.to_le_bytes(), 4).unwrap();
        for &(index, address, is_port, value) in entries {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(1u32.to_le_bytes());
            bytes.extend(is_port.to_le_bytes());
            bytes.extend([value, 0, 0, 0, 0, 0, 0, 0]);
            file.write_at(&bytes, 8 + 24 * u64::from(index)).unwrap();
        }
        file
    }

    fn drained(ring: &CoalescedRing) -> Vec<(u64, bool, Vec<u8>)> {
        let mut all = Vec::new();
        ring.drain(|write| all.push((write.address, write.is_port, write.data().to_vec())));
        all
    }

    #[test]
    fn gives_writes_in_order_and_wraps() {
        let last = CAPACITY - 1;
        let file = file_with(last, 1, &[(last, 0x1f2, 1, 8), (0, 0xfe00_0000, 0, 9)]);
        let ring = CoalescedRing::map(&file, 0).unwrap();
        assert_eq!(
            drained(&ring),
            [(0x1f2, true, vec![8]), (0xfe00_0000, false, vec![9])]
        );
        assert_eq!(drained(&ring), []);
    }

    #[test]
    fn an_index_out_of_range_is_not_followed() {
        let file = file_with(CAPACITY + 5, 3, &[]);
        let ring = CoalescedRing::map(&file, 0).unwrap();
        assert_eq!(drained(&ring), []);
    }
}
