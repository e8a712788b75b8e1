//! What an assigned device needs of the kernel (linux/vfio.h), as a trait: hardware behind
//! it in life, a fake that fails on demand in tests.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use pci::{BarIndex, HostBdf};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Mapping;

/// The size of a page, and so the grain of what can be mapped.
pub const PAGE: u64 = 4096;

/// A range of the device that can be read and written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RegionId {
    /// What is behind a BAR.
    Bar(BarIndex),
    /// Config space, as the kernel virtualises it.
    Config,
    /// The option ROM, to be read.
    Rom,
}

/// What a region is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegionInfo {
    /// Length in bytes; 0 where there is nothing.
    pub size: u64,
    /// It can be read.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// The parts that can be mapped: page aligned, in order, none if nothing can be. Of a
    /// region smaller than a page, that page if all of it is the device's on the host.
    pub mappable: Vec<Range<u64>>,
}

/// What a device, or the host on its account, signals. Of messages and pins one kind at a
/// time can be enabled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub enum IrqKind {
    /// The interrupt pin. Its trigger is signalled when the device asserts it, which masks it.
    Intx,
    /// MSI.
    Msi,
    /// MSI-X.
    Msix,
    /// An uncorrectable error of the device, reported through AER.
    Error,
    /// The host wants the device back. Signalled again now and then until it is closed.
    Request,
}

/// The interrupts of a kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IrqInfo {
    /// Vectors that the device has; 0 if it has none of the kind.
    pub count: u32,
    /// Vectors can be added while others are enabled. Otherwise enabling one more means
    /// disabling them all first.
    pub growable: bool,
}

/// The kernel did not set triggers.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    /// The host has only so many vectors to give; none were enabled.
    #[error("the host has only {0} vectors for it")]
    Only(u32),
    /// The kernel refused.
    #[error("the kernel refused")]
    Refused(#[source] io::Error),
}

/// A way of the kernel's to reset one function (Documentation/ABI/testing/sysfs-bus-pci,
/// `reset_method`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub enum ResetMethod {
    /// What the kernel knows of this very device.
    DeviceSpecific,
    /// The firmware's `_RST`.
    Acpi,
    /// Function-level reset (PCIe 6.0 §6.6.2).
    Flr,
    /// The same of conventional PCI (Advanced Features ECN §3).
    AfFlr,
    /// To D3hot and back, which a device may take for a reset (PCI Power Management 1.2
    /// §5.4). Much may survive it.
    Pm,
    /// Secondary Bus Reset, where nothing else is on the bus.
    Bus,
    /// The same of a CXL device's port.
    CxlBus,
}

impl std::fmt::Display for ResetMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DeviceSpecific => "a reset made for this device",
            Self::Acpi => "a reset by the firmware",
            Self::Flr => "a function-level reset",
            Self::AfFlr => "a function-level reset (Advanced Features)",
            Self::Pm => "a reset by power management",
            Self::Bus => "a reset of its bus",
            Self::CxlBus => "a reset of its CXL bus",
        })
    }
}

/// A function that a reset of a bus resets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Affected {
    /// Where it is.
    pub address: HostBdf,
    /// This process holds it, or its IOMMU group.
    pub ours: bool,
    /// The host's driver of it, if it is not ours and has one.
    pub driver: Option<String>,
}

/// A device in the hands of VFIO.
pub trait VfioBackend: Send + Sync {
    /// What a region is; all zero where there is none.
    fn region(&self, region: RegionId) -> RegionInfo;

    /// The interrupts of a kind.
    fn irq(&self, kind: IrqKind) -> IrqInfo;

    /// Reads from a region.
    fn read(&self, region: RegionId, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes to a region.
    fn write(&self, region: RegionId, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Maps a part of [`RegionInfo::mappable`], page aligned, into this process.
    fn map(&self, region: RegionId, range: Range<u64>) -> io::Result<Arc<dyn Mapping>>;

    /// Has the vectors from `start` on signal these events, or nothing. If none of the kind
    /// is enabled yet, enables as many vectors as that reaches.
    fn set_triggers(
        &self,
        kind: IrqKind,
        start: u32,
        triggers: &[Option<&EventFd>],
    ) -> Result<(), TriggerError>;

    /// Unmasks the pin: if the device still asserts it, its trigger is signalled again.
    fn unmask_intx(&self) -> io::Result<()>;

    /// Has the kernel unmask the pin, as [`Self::unmask_intx`] does, whenever this event is
    /// signalled, until INTx is disabled. Not every kernel driver can.
    fn set_unmask_event(&self, event: &EventFd) -> io::Result<()>;

    /// Disables all interrupts of a kind. When it returns no event is signalled any more.
    fn disable_irqs(&self, kind: IrqKind) -> io::Result<()>;

    /// The kernel knows a way to reset the device.
    fn can_reset(&self) -> bool;

    /// Resets the device. Config space keeps what the kernel virtualises.
    fn reset(&self) -> io::Result<()>;

    /// How [`Self::reset`] goes about it, where that is known.
    fn reset_method(&self) -> Option<ResetMethod>;

    /// What a reset of the bus that the device is on would reset: the device itself, and
    /// what is beside it.
    fn hot_reset_info(&self) -> io::Result<Vec<Affected>>;

    /// Resets the bus and all that [`Self::hot_reset_info`] says, each of which must be
    /// ours. As with [`Self::reset`], config spaces keep what the kernel virtualises.
    fn hot_reset(&self) -> io::Result<()>;
}
