//! How a device is reached: register regions, and the paths that spare an exit.

use std::sync::Arc;

use pci::BarIndex;
use vmm_sys_util::eventfd::EventFd;

/// A range of registers (a BAR, a set of ports, a fixed MMIO block).
///
/// Called from any vCPU thread; an implementation locks for itself, and never for long:
/// slow work belongs to the device's own thread. `data` is 1, 2, 4 or 8 bytes long, or
/// any length for accesses that a guest made crooked; offsets are within the region.
pub trait Region: Send + Sync {
    /// Fills `data`, little endian, with what the guest reads at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes what the guest writes at `offset`.
    fn write(&self, offset: u64, data: &[u8]);

    /// Reads one register over and over, as a string instruction does: `data` is a whole
    /// number of items of `width` bytes. Worth doing in one go where bytes stream through a
    /// register.
    fn read_string(&self, offset: u64, width: usize, data: &mut [u8]) {
        for item in data.chunks_mut(width.max(1)) {
            self.read(offset, item);
        }
    }

    /// Writes one register over and over, as [`Self::read_string`] reads.
    fn write_string(&self, offset: u64, width: usize, data: &[u8]) {
        for item in data.chunks(width.max(1)) {
            self.write(offset, item);
        }
    }
}

/// A way for a part of a region to be reached without an exit to this process.
#[derive(Clone)]
pub enum FastPath {
    /// A write of `len` bytes (0 for any length) to `offset` signals `event` and is
    /// otherwise lost; with `value`, only writes of that value.
    ///
    /// The device takes the event on its own thread. A vCPU may get ahead of it: before a
    /// device answers a register access it must itself consume what is pending.
    Doorbell {
        /// Offset in the region.
        offset: u64,
        /// 1, 2, 4 or 8; 0 for any length where the host allows it.
        len: u8,
        /// Only writes of this value.
        value: Option<u64>,
        /// What is signalled.
        event: Arc<EventFd>,
    },
    /// Writes to this range may be queued and handed to [`Region::write`] later, in order,
    /// but before any other access of any vCPU is dispatched, and at [`Deferred::flush`].
    Coalesced {
        /// Offset in the region.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The range is memory that the guest reaches directly.
    Mapped {
        /// Offset in the region, a multiple of the page size.
        offset: u64,
        /// The memory; its length is a multiple of the page size.
        memory: Arc<dyn Mapping>,
    },
}

/// Memory of this process that can be given to the guest, alive while this object is.
pub trait Mapping: Send + Sync {
    /// Start address in this process, page aligned.
    fn host_address(&self) -> usize;
    /// Length in bytes.
    fn len(&self) -> usize;
    /// True if there is nothing mapped.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The guest may write.
    fn writable(&self) -> bool;
    /// It is memory of a device of the host's.
    fn is_device(&self) -> bool {
        false
    }
}

/// Writes that the kernel has queued ([`FastPath::Coalesced`]).
pub trait Deferred: Send + Sync {
    /// Dispatches every queued write of every device, in order. The caller must hold no
    /// lock that a [`Region::write`] of its own takes.
    fn flush(&self);
}

/// Nothing is ever queued: for tests and for devices without coalesced ranges.
#[derive(Clone, Copy, Debug, Default)]
pub struct NothingDeferred;

impl Deferred for NothingDeferred {
    fn flush(&self) {}
}

/// Told that [`PciDevice::fast_paths`] answers otherwise than before, for a BAR that stays
/// where it is. Only [`FastPath::Mapped`] ranges may come and go like this.
pub trait FastPathWatcher: Send + Sync {
    /// The machine asks again, soon. Called from any thread; takes note and returns.
    fn fast_paths_changed(&self);
}

/// Fast paths stay as they were when the BAR was mapped.
#[derive(Clone, Copy, Debug, Default)]
pub struct NobodyWatches;

impl FastPathWatcher for NobodyWatches {
    fn fast_paths_changed(&self) {}
}

/// A PCI function with registers behind its BARs.
pub trait PciDevice: pci::Function {
    /// A name for logs and statistics, such as `e1000` or `0000:02:10.0`.
    fn name(&self) -> &str;

    /// The registers behind a BAR; `None` where the function has no such BAR.
    fn region(&self, bar: BarIndex) -> Option<Arc<dyn Region>>;

    /// Ways into a BAR that spare an exit. Asked whenever the BAR is (re)mapped.
    fn fast_paths(&self, bar: BarIndex) -> Vec<FastPath> {
        let _ = bar;
        Vec::new()
    }

    /// Takes note of where the function sits on its bus. Called when it is plugged in and
    /// whenever bus numbers change; a function that does DMA or sends messages takes its
    /// requester id from here.
    fn set_bdf(&self, bdf: pci::Bdf) {
        let _ = bdf;
    }
}

/// Chipset functions whose config space is all there is to them.
macro_rules! without_registers {
    ($function:ty, $name:literal) => {
        impl PciDevice for $function {
            fn name(&self) -> &str {
                $name
            }

            fn region(&self, _: BarIndex) -> Option<Arc<dyn Region>> {
                None
            }
        }
    };
}

without_registers!(pci::HostBridge, "host-bridge");
without_registers!(pci::RootPort, "root-port");
