//! iommufd: an I/O address space that devices with files of their own are attached to
//! (Documentation/userspace-api/iommufd.rst, linux/iommufd.h).
//!
//! Mappings belong to the address space, not to the devices in it: they stay when the last
//! device leaves, and are made before the first one comes without pinning anything.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use iommufd_bindings::{
    iommu_ioas_map, iommu_ioas_unmap, iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE,
};
use iommufd_ioctls::{IommuFd, IommufdIoas};
use nix::errno::Errno;

use super::{HostMapper, MapError};

/// Why iommufd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IommufdError {
    /// The character device is not there.
    #[error(
        "no /dev/iommu: load it with `modprobe iommufd`; kernels without CONFIG_IOMMUFD have \
         type1 only"
    )]
    Missing,
    /// The character device may not be opened.
    #[error("no permission to open /dev/iommu: run as root, or give this user access to it")]
    Permission,
    /// A file that was said to be one is not.
    #[error("it is no file of /dev/iommu")]
    NotIommufd,
    /// Anything else.
    #[error("cannot {what} an I/O address space in /dev/iommu")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// An I/O address space of an iommufd.
pub struct Iommufd {
    // The address space is destroyed before its file is closed.
    space: IommufdIoas,
    fd: Arc<IommuFd>,
}

impl Iommufd {
    /// Opens `/dev/iommu` and makes an address space.
    pub fn open() -> Result<Self, IommufdError> {
        let fd = IommuFd::new().map_err(|error| match error {
            iommufd_ioctls::IommufdError::OpenIommufd(error) => opening(error),
            other => IommufdError::Kernel {
                what: "open",
                source: cause(other),
            },
        })?;
        Self::with(fd)
    }

    /// Makes an address space in a `/dev/iommu` that somebody else has opened.
    pub fn from_file(file: File) -> Result<Self, IommufdError> {
        Self::with(IommuFd::new_from_fd(file))
    }

    fn with(fd: IommuFd) -> Result<Self, IommufdError> {
        Self::within(Arc::new(fd))
    }

    fn within(fd: Arc<IommuFd>) -> Result<Self, IommufdError> {
        let space = IommufdIoas::new(fd.clone()).map_err(|error| making(cause(error)))?;
        Ok(Self { space, fd })
    }

    /// Makes another address space in the same `/dev/iommu`.
    pub fn another(&self) -> Result<Self, IommufdError> {
        Self::within(self.fd.clone())
    }

    /// The number that the kernel knows the address space by.
    pub fn space(&self) -> u32 {
        self.space.id()
    }
}

impl AsFd for Iommufd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `self.fd` owns the descriptor, and outlives the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.fd.as_raw_fd()) }
    }
}

impl HostMapper for Iommufd {
    // SAFETY: the contract is the trait's: the memory stays where it is while it is mapped.
    unsafe fn map(
        &self,
        iova: u64,
        host: *mut u8,
        len: u64,
        writable: bool,
    ) -> Result<(), MapError> {
        let request = map_request(self.space(), iova, host as u64, len, writable);
        self.fd.map_iommu_ioas(&request).map_err(|error| MapError {
            operation: "map",
            iova,
            len,
            source: cause(error),
        })
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<(), MapError> {
        let mut request = iommu_ioas_unmap {
            size: size_of::<iommu_ioas_unmap>() as u32,
            ioas_id: self.space(),
            iova,
            length: len,
        };
        let unmapped = self.fd.unmap_iommu_ioas(&mut request);
        unmapped.map_err(|error| MapError {
            operation: "unmap",
            iova,
            len,
            source: cause(error),
        })
    }
}

fn map_request(space: u32, iova: u64, host: u64, len: u64, writable: bool) -> iommu_ioas_map {
    let write = if writable {
        iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE
    } else {
        0
    };
    iommu_ioas_map {
        size: size_of::<iommu_ioas_map>() as u32,
        flags: iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
            | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE
            | write,
        ioas_id: space,
        user_va: host,
        length: len,
        iova,
        ..Default::default()
    }
}

fn opening(error: io::Error) -> IommufdError {
    match (error.kind(), error.raw_os_error().map(Errno::from_raw)) {
        (io::ErrorKind::NotFound, _) => IommufdError::Missing,
        (io::ErrorKind::PermissionDenied, _) => IommufdError::Permission,
        // The node is there, the module behind it is not.
        (_, Some(Errno::ENODEV | Errno::ENXIO)) => IommufdError::Missing,
        _ => IommufdError::Kernel {
            what: "open",
            source: error,
        },
    }
}

fn making(error: io::Error) -> IommufdError {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOTTY) => IommufdError::NotIommufd,
        _ => IommufdError::Kernel {
            what: "make",
            source: error,
        },
    }
}

/// What the kernel said.
fn cause(error: iommufd_ioctls::IommufdError) -> io::Error {
    use iommufd_ioctls::IommufdError::{
        IommuDestroy, IommuIoasAlloc, IommuIoasMap, IommuIoasUnmap, OpenIommufd,
    };

    match error {
        OpenIommufd(error) => error,
        IommuDestroy(e) | IommuIoasAlloc(e) | IommuIoasMap(e) | IommuIoasUnmap(e) => {
            io::Error::from_raw_os_error(e.errno())
        }
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn says_what_is_wrong_with_iommufd() {
        let opening = |errno: Errno| opening(errno.into());
        assert!(matches!(opening(Errno::ENOENT), IommufdError::Missing));
        assert!(matches!(opening(Errno::ENODEV), IommufdError::Missing));
        assert!(matches!(opening(Errno::EACCES), IommufdError::Permission));
        assert!(matches!(opening(Errno::EPERM), IommufdError::Permission));
        assert!(matches!(
            opening(Errno::EMFILE),
            IommufdError::Kernel { what: "open", .. }
        ));
        assert!(matches!(
            making(Errno::ENOMEM.into()),
            IommufdError::Kernel { what: "make", .. }
        ));
    }

    #[test]
    fn another_file_is_told_from_an_iommufd() {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let made = Iommufd::from_file(null.unwrap());
        assert!(matches!(made, Err(IommufdError::NotIommufd)));
    }

    #[test]
    fn a_mapping_is_where_it_is_wanted_and_written_only_if_it_may_be() {
        let request = map_request(7, 1 << 32, 0x1000, 0x2000, false);
        assert_eq!(
            (request.size, request.flags, request.ioas_id),
            (40, 0b101, 7)
        );
        assert_eq!(
            (request.iova, request.user_va, request.length),
            (1 << 32, 0x1000, 0x2000)
        );
        assert_eq!(map_request(7, 0, 0, 0x1000, true).flags, 0b111);
    }

    #[test]
    fn the_kernels_word_is_kept() {
        let said = vmm_sys_util::errno::Error::new(Errno::ENOMEM as i32);
        let error = cause(iommufd_ioctls::IommufdError::IommuIoasMap(said));
        assert_eq!(error.raw_os_error(), Some(Errno::ENOMEM as i32));
    }
}
