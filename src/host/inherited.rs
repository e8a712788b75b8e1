//! File descriptors that whoever started Sluice has opened for it: a VFIO device's own file,
//! or `/dev/iommu`. For callers whose Sluice has no privilege to open them.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::stat::{major, minor};

use super::{Host, HostDevice};

/// Why a file descriptor is of no use.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// There is no such descriptor.
    #[error(
        "file descriptor {0} is not open; whoever starts sluice must open it and let it be \
         inherited (without close-on-exec)"
    )]
    NotOpen(RawFd),
    /// It is something else.
    #[error("file descriptor {0} is no VFIO device; it must be an open /dev/vfio/devices/vfioN")]
    NotVfio(RawFd),
    /// It is something else.
    #[error("file descriptor {0} is no iommufd; it must be an open /dev/iommu")]
    NotIommufd(RawFd),
    /// It is Sluice's own already.
    #[error("file descriptor {0} was not inherited from whoever started sluice")]
    NotInherited(RawFd),
    /// It could not be looked at.
    #[error("cannot tell what file descriptor {0} is")]
    Unknown(RawFd, #[source] io::Error),
}

/// A descriptor that was inherited, and is this process's to close.
#[derive(Clone)]
pub struct Inherited(Arc<Owned>);

struct Owned {
    number: RawFd,
    file: Mutex<Option<File>>,
}

impl Inherited {
    /// The file, for whoever will close it; once.
    pub fn take(&self) -> Option<File> {
        let mut file = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.take()
    }

    /// Another descriptor of the file, which stays open; none once it was taken.
    pub fn copy(&self) -> io::Result<Option<File>> {
        let file = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.as_ref().map(File::try_clone).transpose()
    }

    /// Takes ownership of the descriptor if it was inherited and `check` likes the file.
    fn adopt<T>(
        number: RawFd,
        check: impl FnOnce(&File) -> Result<T, DescriptorError>,
    ) -> Result<(Self, T), DescriptorError> {
        let unknown = |errno: Errno| DescriptorError::Unknown(number, errno.into());
        if number < 0 {
            return Err(DescriptorError::NotOpen(number));
        }
        // SAFETY: the borrow does not outlive this function, in which nothing closes the
        // descriptor; if it is not open the first use says so.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let flags = match fcntl(borrowed, FcntlArg::F_GETFD) {
            Ok(flags) => FdFlag::from_bits_retain(flags),
            Err(Errno::EBADF) => return Err(DescriptorError::NotOpen(number)),
            Err(errno) => return Err(unknown(errno)),
        };
        let copy = borrowed.try_clone_to_owned().map(File::from);
        let copy = copy.map_err(|error| DescriptorError::Unknown(number, error))?;
        let checked = check(&copy)?;
        if flags.contains(FdFlag::FD_CLOEXEC) {
            return Err(DescriptorError::NotInherited(number));
        }
        // From here on children do not inherit it.
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(unknown)?;
        // SAFETY: nothing else in this process owns the descriptor. Whatever of this kind of
        // file Sluice opens itself is close-on-exec, as this one is from now on; this one was
        // not, so it was there before the process was.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(number) });
        let owned = Owned {
            number,
            file: Mutex::new(Some(file)),
        };
        Ok((Self(Arc::new(owned)), checked))
    }
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.number)
    }
}

impl PartialEq for Inherited {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Inherited {}

impl serde::Serialize for Inherited {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(self.0.number)
    }
}

impl Host {
    /// Takes over a descriptor that was inherited, and finds out which device it is of.
    pub fn inherited_device(
        &self,
        number: RawFd,
    ) -> Result<(Inherited, HostDevice), DescriptorError> {
        Inherited::adopt(number, |file| {
            let device = node_number(number, file)?.and_then(|node| self.device_of_node(node));
            device.ok_or(DescriptorError::NotVfio(number))
        })
    }

    /// Takes over a descriptor of `/dev/iommu` that was inherited.
    pub fn inherited_iommufd(&self, number: RawFd) -> Result<Inherited, DescriptorError> {
        let is_iommufd = |file: &File| {
            let node = node_number(number, file)?;
            let here = node.map(|node| format!("{}:{}", major(node), minor(node)));
            if here.is_some() && self.text("sys/class/misc/iommu/dev") == here {
                Ok(())
            } else {
                Err(DescriptorError::NotIommufd(number))
            }
        };
        Inherited::adopt(number, is_iommufd).map(|(inherited, ())| inherited)
    }

    /// The device whose node has this number: in sysfs, the node lies in `vfio-dev` of it.
    fn device_of_node(&self, node: u64) -> Option<HostDevice> {
        let node = format!("sys/dev/char/{}:{}", major(node), minor(node));
        let node = self.root.join(node).canonicalize().ok()?;
        let class = node.parent()?;
        if class.file_name()? != Path::new("vfio-dev") {
            return None;
        }
        let name = class.parent()?.file_name()?.to_str()?;
        let address = name.parse().map(HostDevice::Pci).ok();
        address.or_else(|| name.parse().map(HostDevice::Mediated).ok())
    }
}

/// The device number of a file that is a character device.
fn node_number(number: RawFd, file: &File) -> Result<Option<u64>, DescriptorError> {
    let meta = file
        .metadata()
        .map_err(|error| DescriptorError::Unknown(number, error))?;
    Ok(meta.file_type().is_char_device().then(|| meta.rdev()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::host::fake_tree::FakeTree;
    use std::os::fd::{AsRawFd, IntoRawFd};

    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

    /// A descriptor as a child finds it: of /dev/null, whose number is 1:3.
    pub(crate) fn inherited_null() -> RawFd {
        let file = File::options().read(true).write(true).open("/dev/null");
        nix::unistd::dup(file.unwrap()).unwrap().into_raw_fd()
    }

    /// A tree in which the node with /dev/null's number lies here.
    pub(crate) fn null_is(tree: &FakeTree, node: &str) {
        tree.write(format!("{node}/dev"), "1:3")
            .link("sys/dev/char/1:3", node);
    }

    #[test]
    fn finds_the_device_of_a_file() {
        for (node, name) in [
            (
                "sys/devices/pci0000:00/0000:02:10.0/vfio-dev/vfio3",
                "0000:02:10.0".to_owned(),
            ),
            (
                &format!("sys/devices/virtual/mtty/mtty/{UUID}/vfio-dev/vfio4"),
                format!("mdev {UUID}"),
            ),
        ] {
            let tree = FakeTree::new();
            null_is(&tree, node);
            let adopted = tree.host().inherited_device(inherited_null());
            let (inherited, device) = adopted.unwrap();
            assert_eq!(device.to_string(), name);
            let copy = inherited.copy().unwrap().unwrap();
            let file = inherited.take().unwrap();
            assert_ne!(copy.as_raw_fd(), file.as_raw_fd());
            let flags = fcntl(&file, FcntlArg::F_GETFD).unwrap();
            assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
            assert!(inherited.take().is_none() && inherited.copy().unwrap().is_none());
        }
    }

    #[test]
    fn tells_what_is_none() {
        let tree = FakeTree::new();
        null_is(&tree, "sys/devices/virtual/mem/null");
        let host = tree.host();
        let says = |number| host.inherited_device(number).unwrap_err().to_string();
        let null = inherited_null();
        assert!(says(null).contains("is no VFIO device"));
        assert!(says(-1).contains("-1 is not open"));
        assert!(says(1 << 20).contains("is not open"));
        let directory = nix::unistd::dup(File::open("/").unwrap()).unwrap();
        assert!(says(directory.as_raw_fd()).contains("is no VFIO device"));
        let error = host.inherited_iommufd(null).unwrap_err();
        assert!(error.to_string().contains("is no iommufd"));
        tree.write("sys/class/misc/iommu/dev", "1:3\n");
        assert!(host.inherited_iommufd(null).is_ok());
    }

    #[test]
    fn what_sluice_has_opened_itself_is_not_taken_from_it() {
        let tree = FakeTree::new();
        null_is(&tree, "sys/devices/pci0000:00/0000:02:10.0/vfio-dev/vfio3");
        let own = File::open("/dev/null").unwrap();
        let taken = tree.host().inherited_device(own.as_raw_fd());
        assert!(matches!(taken, Err(DescriptorError::NotInherited(_))));
        // Nor is what it has adopted.
        let number = inherited_null();
        let first = tree.host().inherited_device(number).unwrap();
        assert!(tree.host().inherited_device(number).is_err());
        drop(first);
    }
}
