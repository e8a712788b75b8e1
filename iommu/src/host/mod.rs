//! The host's IOMMU, which assigned devices go through.
//!
//! [`Type1`] is a VFIO container with the type1 IOMMU behind it, [`Iommufd`] an address space
//! of the kernel's newer interface; [`pin_memory`] gives the devices in either the whole of
//! guest RAM.

mod iommufd;
mod pin;
mod type1;

pub use iommufd::{Iommufd, IommufdError};
pub use pin::{PinError, PinnedMemory, check_lock_limit, pin_memory};
pub use type1::{OpenError, Type1};
/// The KVM VFIO device, opaque here: KVM learns from it which groups the machine holds.
pub use vfio_ioctls::VfioDeviceFd as HypervisorVfio;

/// Maps ranges of a device's I/O address space to this process's memory.
pub trait HostMapper: Send + Sync {
    /// Maps `len` bytes at `iova` to the memory at `host`, for reads and, if `writable`,
    /// for writes. All three are multiples of the host's page size.
    ///
    /// # Safety
    /// `host..host + len` must stay mapped memory of this process until unmapped here.
    unsafe fn map(
        &self,
        iova: u64,
        host: *mut u8,
        len: u64,
        writable: bool,
    ) -> Result<(), MapError>;

    /// Removes what is mapped in `iova..iova + len`. When this returns no device can reach
    /// that memory any more.
    fn unmap(&self, iova: u64, len: u64) -> Result<(), MapError>;
}

/// The host refused a mapping.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of {len:#x} bytes at I/O address {iova:#x}")]
pub struct MapError {
    /// `map` or `unmap`.
    pub operation: &'static str,
    /// First I/O virtual address.
    pub iova: u64,
    /// Length in bytes.
    pub len: u64,
    /// What the kernel said.
    #[source]
    pub source: std::io::Error,
}
