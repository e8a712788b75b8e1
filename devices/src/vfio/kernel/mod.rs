//! [`VfioBackend`] over the kernel's vfio-pci (linux/vfio.h).
//!
//! Groups and the container are `vfio-ioctls`'. Where that crate panics, swallows an error or
//! knows no way, the ioctls are made here: devices with files of their own (which the crate
//! leaves with KVM when a step fails, and panics over when they are gone), region information
//! by index (the crate's list shifts when an entry fails), register access whose failure is
//! told, triggers for a part of the vectors, the "only so many vectors" answer of
//! VFIO_DEVICE_SET_IRQS, and the outcome of a reset.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use iommu::host::{Iommufd, Type1};
use nix::errno::Errno;
use pci::{BarIndex, HostBdf};
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX, VFIO_PCI_ROM_REGION_INDEX, VFIO_TYPE,
    vfio_device_info, vfio_irq_info,
};
use vmm_sys_util::eventfd::EventFd;

use super::backend::{
    Affected, IrqInfo, IrqKind, RegionId, RegionInfo, ResetMethod, TriggerError, VfioBackend,
};
use crate::bus::Mapping;

mod cdev;
mod hot_reset;
mod mapping;
mod open;
mod region;

pub use cdev::Hypervisor;
pub use open::{Candidate, OpenError};

use mapping::DeviceMapping;
use open::Handle;
use region::KernelRegion;

nix::ioctl_readwrite_bad!(
    vfio_device_get_info,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 7),
    vfio_device_info
);
nix::ioctl_readwrite_bad!(
    vfio_device_get_irq_info,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 9),
    vfio_irq_info
);
nix::ioctl_write_ptr_bad!(
    vfio_device_set_irqs,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 10),
    u32
);
nix::ioctl_none_bad!(
    vfio_device_reset,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 11)
);

/// The interrupts that the device has, by kind.
struct Irqs([(IrqKind, IrqInfo); 5]);

impl Irqs {
    fn ask(fd: RawFd) -> io::Result<Self> {
        use IrqKind::{Error, Intx, Msi, Msix, Request};

        let mut irqs = [Intx, Msi, Msix, Error, Request].map(|kind| (kind, IrqInfo::default()));
        for (kind, info) in &mut irqs {
            *info = irq_info(fd, index(*kind))?;
        }
        Ok(Self(irqs))
    }

    fn of(&self, kind: IrqKind) -> IrqInfo {
        let found = self.0.iter().find(|(other, _)| *other == kind);
        found.map(|(_, info)| *info).unwrap_or_default()
    }
}

fn index(kind: IrqKind) -> u32 {
    match kind {
        IrqKind::Intx => VFIO_PCI_INTX_IRQ_INDEX,
        IrqKind::Msi => VFIO_PCI_MSI_IRQ_INDEX,
        IrqKind::Msix => VFIO_PCI_MSIX_IRQ_INDEX,
        IrqKind::Error => VFIO_PCI_ERR_IRQ_INDEX,
        IrqKind::Request => VFIO_PCI_REQ_IRQ_INDEX,
    }
}

/// A device that this process has opened. The kernel resets it when it is closed, which is
/// when this and every [`Mapping`] made of it are gone.
pub struct KernelDevice {
    device: Arc<Handle>,
    /// Where it is on the host's bus, if on one.
    address: Option<HostBdf>,
    bars: [KernelRegion; 6],
    config: KernelRegion,
    rom: KernelRegion,
    irqs: Irqs,
    can_reset: bool,
}

impl KernelDevice {
    /// Opens a device by its group, which joins the container.
    pub fn open(type1: &Type1, candidate: &Candidate) -> Result<Self, OpenError> {
        let handle = Handle::of_group(type1.container(), candidate)?;
        Self::ask(handle, candidate)
    }

    /// Opens a device by its own file (`open`, if somebody has opened that already) and
    /// attaches it to the address space. With `hypervisor`, that is told of it.
    pub fn open_file(
        iommufd: &Arc<Iommufd>,
        hypervisor: Option<Arc<dyn Hypervisor>>,
        candidate: &Candidate,
        open: Option<File>,
    ) -> Result<Self, OpenError> {
        let handle = Handle::own(iommufd, hypervisor, candidate, open)?;
        Self::ask(handle, candidate)
    }

    fn ask(handle: Handle, candidate: &Candidate) -> Result<Self, OpenError> {
        let info = |source| OpenError::Info {
            name: candidate.name.clone(),
            source,
        };
        // Before anything else: mtty knows of no interrupts until it has been asked this.
        let flags = device_flags(handle.as_raw_fd()).map_err(info)?;
        if flags & VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(OpenError::NotPci(candidate.name.clone()));
        }
        Self::ask_regions(handle, candidate.address, flags).map_err(info)
    }

    fn ask_regions(handle: Handle, address: Option<HostBdf>, flags: u32) -> io::Result<Self> {
        let fd = handle.as_raw_fd();
        let mut bars = [const { KernelRegion::NONE }; 6];
        for (index, bar) in (0..).zip(&mut bars) {
            *bar = KernelRegion::ask(fd, index)?;
        }
        Ok(Self {
            address,
            bars,
            config: KernelRegion::ask(fd, VFIO_PCI_CONFIG_REGION_INDEX)?,
            // A kernel that will not tell of it has none to show.
            rom: KernelRegion::ask(fd, VFIO_PCI_ROM_REGION_INDEX).unwrap_or(KernelRegion::NONE),
            irqs: Irqs::ask(fd)?,
            can_reset: flags & VFIO_DEVICE_FLAGS_RESET != 0,
            device: Arc::new(handle),
        })
    }

    fn find(&self, region: RegionId) -> &KernelRegion {
        static NONE: KernelRegion = KernelRegion::NONE;
        match region {
            RegionId::Config => &self.config,
            RegionId::Rom => &self.rom,
            RegionId::Bar(BarIndex(n)) => self.bars.get(usize::from(n)).unwrap_or(&NONE),
        }
    }

    /// VFIO_DEVICE_SET_IRQS of the first `count` vectors, with no data.
    fn set_none(&self, flags: u32, kind: IrqKind, count: usize) -> io::Result<()> {
        set_irqs(
            self.device.as_raw_fd(),
            flags,
            kind,
            0,
            count,
            [].into_iter(),
        )
        .map_err(refusal)
    }

    /// The device's file, for reading and writing at an offset. Borrowed: not to be closed.
    fn file(&self) -> ManuallyDrop<File> {
        // SAFETY: `self.device` owns the descriptor and outlives the borrow of `self`;
        // `ManuallyDrop` keeps the file from closing it.
        ManuallyDrop::new(unsafe { File::from_raw_fd(self.device.as_raw_fd()) })
    }
}

impl VfioBackend for KernelDevice {
    fn region(&self, region: RegionId) -> RegionInfo {
        self.find(region).info.clone()
    }

    fn irq(&self, kind: IrqKind) -> IrqInfo {
        self.irqs.of(kind)
    }

    fn read(&self, region: RegionId, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = self.find(region).locate(offset, data.len())?;
        self.file().read_exact_at(data, at)
    }

    fn write(&self, region: RegionId, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = self.find(region).locate(offset, data.len())?;
        self.file().write_all_at(data, at)
    }

    fn map(&self, region: RegionId, range: Range<u64>) -> io::Result<Arc<dyn Mapping>> {
        let found = self.find(region);
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let at = found.locate_mapping(range.start, len)?;
        let mapping = DeviceMapping::new(
            Arc::clone(&self.device),
            at,
            len,
            range.start,
            found.info.writable,
        )?;
        Ok(Arc::new(mapping))
    }

    fn set_triggers(
        &self,
        kind: IrqKind,
        start: u32,
        triggers: &[Option<&EventFd>],
    ) -> Result<(), TriggerError> {
        let events = triggers
            .iter()
            // -1 is for nothing.
            .map(|trigger| trigger.map_or(-1, |event| event.as_raw_fd()));
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        let count = triggers.len();
        set_irqs(self.device.as_raw_fd(), flags, kind, start, count, events)
    }

    fn unmask_intx(&self) -> io::Result<()> {
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK;
        self.set_none(flags, IrqKind::Intx, 1)
    }

    fn set_unmask_event(&self, event: &EventFd) -> io::Result<()> {
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK;
        let event = [event.as_raw_fd()];
        let fd = self.device.as_raw_fd();
        set_irqs(fd, flags, IrqKind::Intx, 0, 1, event.into_iter()).map_err(refusal)
    }

    fn disable_irqs(&self, kind: IrqKind) -> io::Result<()> {
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_none(flags, kind, 0)
    }

    fn can_reset(&self) -> bool {
        self.can_reset
    }

    fn reset(&self) -> io::Result<()> {
        // SAFETY: the descriptor is a VFIO device's, and the ioctl takes no argument.
        unsafe { vfio_device_reset(self.device.as_raw_fd()) }?;
        Ok(())
    }

    fn reset_method(&self) -> Option<ResetMethod> {
        self.address.and_then(hot_reset::method)
    }

    fn hot_reset_info(&self) -> io::Result<Vec<Affected>> {
        hot_reset::affected(self.device.as_raw_fd())
    }

    fn hot_reset(&self) -> io::Result<()> {
        hot_reset::reset(self.device.as_raw_fd())
    }
}

fn device_flags(fd: RawFd) -> io::Result<u32> {
    let mut info = vfio_device_info {
        argsz: size_of::<vfio_device_info>() as u32,
        ..Default::default()
    };
    // SAFETY: `info` is the ioctl's own structure and says its size.
    unsafe { vfio_device_get_info(fd, &mut info) }?;
    Ok(info.flags)
}

fn irq_info(fd: RawFd, index: u32) -> io::Result<IrqInfo> {
    let mut info = vfio_irq_info {
        argsz: size_of::<vfio_irq_info>() as u32,
        index,
        ..Default::default()
    };
    // SAFETY: `info` is the ioctl's own structure and says its size.
    match unsafe { vfio_device_get_irq_info(fd, &mut info) } {
        Ok(_) => (),
        // What a conventional PCI device says of errors, and a mediated one of what it lacks.
        Err(Errno::EINVAL) => return Ok(IrqInfo::default()),
        Err(errno) => return Err(errno.into()),
    }
    let signals = info.flags & VFIO_IRQ_INFO_EVENTFD != 0;
    Ok(IrqInfo {
        count: if signals { info.count } else { 0 },
        growable: info.flags & VFIO_IRQ_INFO_NORESIZE == 0,
    })
}

fn refusal(error: TriggerError) -> io::Error {
    match error {
        TriggerError::Refused(error) => error,
        other => io::Error::other(other),
    }
}

/// VFIO_DEVICE_SET_IRQS: the five words of `struct vfio_irq_set`, then a descriptor for each
/// vector if the flags say so.
fn set_irqs(
    fd: RawFd,
    flags: u32,
    kind: IrqKind,
    start: u32,
    count: usize,
    events: impl ExactSizeIterator<Item = RawFd>,
) -> Result<(), TriggerError> {
    let size = size_of::<u32>() * (5 + events.len());
    let mut request = vec![size as u32, flags, index(kind), start, count as u32];
    request.extend(events.map(|event| event as u32));
    // SAFETY: `request` is laid out as `struct vfio_irq_set`, is as long as its first word
    // says, and the kernel only reads it.
    match unsafe { vfio_device_set_irqs(fd, request.as_ptr()) } {
        Ok(0) => Ok(()),
        // Not an error to ioctl(2): the number of vectors that there are to be had.
        Ok(available) => Err(TriggerError::Only(available.unsigned_abs())),
        Err(errno) => Err(TriggerError::Refused(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctls_on_what_is_no_device_fail_and_do_not_panic() {
        let null = File::open("/dev/null").unwrap();
        let fd = null.as_raw_fd();
        assert!(device_flags(fd).is_err());
        assert!(irq_info(fd, 0).is_err());
        assert!(KernelRegion::ask(fd, 0).is_err());
        let set = set_irqs(fd, 0, IrqKind::Msi, 0, 0, [].into_iter());
        assert!(matches!(set, Err(TriggerError::Refused(_))));
    }
}
