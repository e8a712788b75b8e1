//! The type1 IOMMU of a VFIO container (Documentation/driver-api/vfio.rst, linux/vfio.h).
//!
//! One container holds every assigned device of a machine, so that guest memory is pinned
//! and mapped once. The container has no IOMMU before the first device's group is attached:
//! open the container, then the devices, then map.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_TYPE, vfio_iommu_type1_dma_map,
};
use vfio_ioctls::{VfioContainer, VfioDeviceFd, VfioError};

use super::{HostMapper, MapError};

nix::ioctl_write_ptr_bad!(
    /// VFIO_IOMMU_MAP_DMA.
    vfio_iommu_map_dma,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 13),
    vfio_iommu_type1_dma_map
);

nix::ioctl_readwrite_bad!(
    /// VFIO_IOMMU_GET_INFO.
    vfio_iommu_get_info,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 12),
    IommuInfo
);

/// `struct vfio_iommu_type1_info`, as far as every kernel knows it.
#[repr(C)]
#[derive(Default)]
struct IommuInfo {
    argsz: u32,
    flags: u32,
    page_sizes: u64,
}

/// Why VFIO cannot be used on this host.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The character device is not there.
    #[error("no /dev/vfio/vfio: load VFIO with `modprobe vfio-pci`")]
    Missing,
    /// The character device may not be opened.
    #[error("no permission to open /dev/vfio/vfio: run as root, or give this user access to it")]
    Permission,
    /// The kernel's VFIO has no type1 IOMMU.
    #[error("VFIO has no type1 IOMMU here: load it with `modprobe vfio_iommu_type1`")]
    NoType1,
    /// Anything else.
    #[error("cannot open a VFIO container")]
    Container(#[source] VfioError),
}

impl From<VfioError> for OpenError {
    fn from(error: VfioError) -> Self {
        match error {
            VfioError::OpenContainer(e) => match e.kind() {
                io::ErrorKind::NotFound => Self::Missing,
                io::ErrorKind::PermissionDenied => Self::Permission,
                // The node is there, the module behind it is not.
                _ if e.raw_os_error() == Some(nix::libc::ENODEV) => Self::Missing,
                _ => Self::Container(VfioError::OpenContainer(e)),
            },
            VfioError::VfioExtension => Self::NoType1,
            other => Self::Container(other),
        }
    }
}

/// A VFIO container with a type1 IOMMU.
pub struct Type1 {
    container: Arc<VfioContainer>,
}

impl Type1 {
    /// Opens a container. With `hypervisor`, KVM is told of each group that joins it.
    pub fn open(hypervisor: Option<Arc<VfioDeviceFd>>) -> Result<Self, OpenError> {
        Ok(Self {
            container: Arc::new(VfioContainer::new(hypervisor)?),
        })
    }

    /// The container, for opening the devices that join it.
    pub fn container(&self) -> &Arc<VfioContainer> {
        &self.container
    }

    /// There is a group in the container. When the last one leaves, so does the IOMMU, with
    /// all that was mapped.
    fn has_iommu(&self) -> bool {
        let mut info = IommuInfo {
            argsz: size_of::<IommuInfo>() as u32,
            ..Default::default()
        };
        // SAFETY: the descriptor is a VFIO container's, and `info` is the start of
        // the ioctl's own structure and says its size.
        unsafe { vfio_iommu_get_info(self.container.as_raw_fd(), &mut info) }.is_ok()
    }
}

impl HostMapper for Type1 {
    // SAFETY: the contract is the trait's: the memory stays where it is while it is mapped.
    unsafe fn map(
        &self,
        iova: u64,
        host: *mut u8,
        len: u64,
        writable: bool,
    ) -> Result<(), MapError> {
        // Not `VfioContainer::vfio_dma_map`: that one knows no read-only mappings.
        let write = if writable { VFIO_DMA_MAP_FLAG_WRITE } else { 0 };
        let request = vfio_iommu_type1_dma_map {
            argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
            flags: VFIO_DMA_MAP_FLAG_READ | write,
            vaddr: host as u64,
            iova,
            size: len,
        };
        // SAFETY: the descriptor is a VFIO container's and `request` is the ioctl's own
        // structure with its size; that the memory stays is the caller's promise.
        unsafe { vfio_iommu_map_dma(self.container.as_raw_fd(), &request) }.map_err(|errno| {
            MapError {
                operation: "map",
                iova,
                len,
                source: errno.into(),
            }
        })?;
        Ok(())
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<(), MapError> {
        let error = |source| MapError {
            operation: "unmap",
            iova,
            len,
            source,
        };
        let size = usize::try_from(len)
            .map_err(|_| error(io::Error::from_raw_os_error(nix::libc::EINVAL)))?;
        match self.container.vfio_dma_unmap(iova, size) {
            // Less than `len` was mapped: type1v2 never splits a mapping, so what lay in
            // the range is gone whole.
            Ok(()) | Err(VfioError::InvalidDmaUnmapSize) => Ok(()),
            Err(_) if !self.has_iommu() => Ok(()),
            Err(VfioError::IommuDmaUnmap(e)) => Err(error(e.into())),
            Err(e) => Err(error(io::Error::other(e))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(errno: i32) -> OpenError {
        VfioError::OpenContainer(io::Error::from_raw_os_error(errno)).into()
    }

    #[test]
    fn says_what_is_wrong_with_vfio() {
        assert!(matches!(opening(nix::libc::ENOENT), OpenError::Missing));
        assert!(matches!(opening(nix::libc::ENODEV), OpenError::Missing));
        assert!(matches!(opening(nix::libc::EACCES), OpenError::Permission));
        assert!(matches!(opening(nix::libc::EPERM), OpenError::Permission));
        assert!(matches!(
            opening(nix::libc::EMFILE),
            OpenError::Container(_)
        ));
        assert!(matches!(
            OpenError::from(VfioError::VfioExtension),
            OpenError::NoType1
        ));
    }
}
