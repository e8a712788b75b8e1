//! The two questions a device's traffic asks of an IOMMU.

use std::ops::Range;

use pci::{Bdf, MsiMessage};

/// Where a DWORD that is written is an interrupt request, with an IOMMU or without (Intel SDM
/// vol. 3 §12.11.1, VT-d 4.1 §3.15). It is never translated, and there is no memory.
pub const INTERRUPT_RANGE: Range<u64> = 0xfee0_0000..0xfef0_0000;

/// What a DMA does to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// The device reads.
    Read,
    /// The device writes.
    Write,
}

/// Where a DMA goes: `len` bytes at guest-physical `gpa`. May be shorter than asked; the
/// caller then asks again for the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Guest-physical address.
    pub gpa: u64,
    /// Contiguous bytes, at least one.
    pub len: u64,
}

/// A DMA or an interrupt that the IOMMU blocked. The IOMMU has recorded it already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("blocked by the IOMMU: requester {requester}, address {address:#x}")]
pub struct Fault {
    /// Who asked.
    pub requester: Bdf,
    /// The I/O virtual address, or the message address of an interrupt.
    pub address: u64,
}

/// An IOMMU in front of devices. Called on I/O paths by any thread.
pub trait Remapper: Send + Sync {
    /// Translates the start of `len` bytes at `iova`.
    fn translate(
        &self,
        requester: Bdf,
        iova: u64,
        len: u64,
        access: Access,
    ) -> Result<Translation, Fault>;

    /// Resolves an interrupt message to the one the interrupt controllers take.
    fn remap(&self, requester: Bdf, message: MsiMessage) -> Result<MsiMessage, Fault>;

    /// What [`Self::remap`] would make of a message now, with nothing recorded: for routes that
    /// are made before the device sends anything. `None` if it would be blocked.
    fn route(&self, requester: Bdf, message: MsiMessage) -> Option<MsiMessage>;

    /// Takes note of a request in the [interrupt address range](INTERRUPT_RANGE) that is no
    /// interrupt request: a read, or a write of anything but one DWORD. It is blocked in any
    /// case.
    fn illegal(&self, requester: Bdf);
}

/// No IOMMU: bus addresses are guest-physical addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity;

impl Remapper for Identity {
    fn translate(&self, _: Bdf, iova: u64, len: u64, _: Access) -> Result<Translation, Fault> {
        Ok(Translation { gpa: iova, len })
    }

    fn remap(&self, _: Bdf, message: MsiMessage) -> Result<MsiMessage, Fault> {
        Ok(message)
    }

    fn route(&self, _: Bdf, message: MsiMessage) -> Option<MsiMessage> {
        Some(message)
    }

    fn illegal(&self, _: Bdf) {}
}
