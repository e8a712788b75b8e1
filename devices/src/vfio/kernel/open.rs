//! Opening a device: by its group, which joins a container, or by a file of its own, which
//! joins an iommufd. [`Handle`] is either.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iommu::host::Iommufd;
use pci::HostBdf;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError};

use super::cdev::{Cdev, Hypervisor, Refused};

/// A device of the host's that is to be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// What stands for it in messages.
    pub name: String,
    /// Where it is on the host's bus, if it is on one.
    pub address: Option<HostBdf>,
    /// Where sysfs keeps it (`/sys/bus/pci/devices/…`, `/sys/bus/mdev/devices/…`).
    pub sysfs: PathBuf,
}

impl Candidate {
    /// The file by which the device is opened alone, if it has one.
    pub fn file(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(self.sysfs.join("vfio-dev")).ok()?;
        let name = entries.flatten().next()?.file_name();
        Some(Path::new("/dev/vfio/devices").join(name))
    }
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{name} is in use: another process has opened its IOMMU group {group}")]
    Busy {
        /// The device.
        name: String,
        /// Its group.
        group: String,
    },
    /// Its device node may not be opened.
    #[error(
        "no permission to open {} for {name}: run as root, or give this user the file with \
         `chown`", .node.display()
    )]
    Permission {
        /// The device.
        name: String,
        /// The node.
        node: PathBuf,
    },
    /// Its device node is not there.
    #[error("no {} for {name}: it is not bound to vfio-pci", .node.display())]
    NotBound {
        /// The device.
        name: String,
        /// The node.
        node: PathBuf,
    },
    /// It has no file of its own.
    #[error(
        "{0} has no file under /dev/vfio/devices: it is not bound to vfio-pci, or the kernel \
         lacks CONFIG_VFIO_DEVICE_CDEV (then say iommu=type1)"
    )]
    NoFile(String),
    /// Another device of the group is in the hands of a host driver.
    #[error(
        "{0} cannot be assigned: its IOMMU group is not viable, as a driver of the host uses \
         another device of the group"
    )]
    NotViable(String),
    /// The platform cannot keep a device's interrupts apart.
    #[error(
        "{0} cannot be assigned safely: the host's IOMMU does not remap interrupts (turn on \
         interrupt remapping in the firmware; the kernel's log says more)"
    )]
    UnsafeInterrupts(String),
    /// It is taken, in one of the ways that iommufd does not tell apart.
    #[error(
        "{0} is in use: another process has it or its IOMMU group, or a driver of the host uses \
         another device of the group"
    )]
    Taken(String),
    /// Binding it to an iommufd is not permitted.
    #[error(
        "{0} cannot be bound to iommufd: another process has a device of its IOMMU group, or the \
         host's IOMMU does not remap interrupts (the kernel's log says more)"
    )]
    NotPermitted(String),
    /// iommufd took the device, but not into the guest's address space.
    #[error(
        "{name} cannot join the address space of the guest: its IOMMU reserves addresses that \
         the guest's memory is at, or does not fit the other devices'"
    )]
    NoSpace {
        /// The device.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Anything else that went wrong.
    #[error("cannot open {name} through VFIO")]
    Vfio {
        /// The device.
        name: String,
        /// What VFIO said.
        #[source]
        source: VfioError,
    },
    /// A step with iommufd that should work.
    #[error("cannot {what} {name}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// The device.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It opened, but does not answer.
    #[error("cannot ask VFIO about {name}")]
    Info {
        /// The device.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is a device of another kind.
    #[error("{0} is no PCI device to VFIO")]
    NotPci(String),
}

impl OpenError {
    fn from_vfio(name: &str, error: VfioError) -> Self {
        let name = name.to_owned();
        let node = |group: &str| Path::new("/dev/vfio").join(group);
        match error {
            VfioError::OpenGroup(e, group) => match e.kind() {
                io::ErrorKind::ResourceBusy => Self::Busy { name, group },
                io::ErrorKind::PermissionDenied => Self::Permission {
                    name,
                    node: node(&group),
                },
                io::ErrorKind::NotFound => Self::NotBound {
                    name,
                    node: node(&group),
                },
                _ => Self::Vfio {
                    name,
                    source: VfioError::OpenGroup(e, group),
                },
            },
            VfioError::GroupViable => Self::NotViable(name),
            VfioError::ContainerSetIOMMU(e) if e.errno() == nix::libc::EPERM => {
                Self::UnsafeInterrupts(name)
            }
            source => Self::Vfio { name, source },
        }
    }

    fn from_file(name: &str, node: PathBuf, error: io::Error) -> Self {
        let name = name.to_owned();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { name, node },
            io::ErrorKind::NotFound => Self::NotBound { name, node },
            _ => Self::Kernel {
                what: "open",
                name,
                source: error,
            },
        }
    }

    fn from_refusal(name: &str, refused: Refused) -> Self {
        let name = name.to_owned();
        let kernel = |what| move |name, source| Self::Kernel { what, name, source };
        match refused {
            Refused::Told(source) => kernel("tell KVM of")(name, source),
            Refused::Bound(source) => match source.raw_os_error() {
                // A device is bound once: EINVAL is what the second to try is told.
                Some(nix::libc::EBUSY | nix::libc::EINVAL) => Self::Taken(name),
                Some(nix::libc::EPERM) => Self::NotPermitted(name),
                _ => kernel("bind to iommufd the device")(name, source),
            },
            Refused::Attached(source) => match source.raw_os_error() {
                Some(nix::libc::EADDRINUSE | nix::libc::EINVAL) => Self::NoSpace { name, source },
                _ => kernel("attach to the guest's address space the device")(name, source),
            },
        }
    }
}

/// An open device. The kernel resets it when it is closed.
pub(super) enum Handle {
    OfGroup(VfioDevice),
    Own(Cdev),
}

impl Handle {
    /// Opens a device's group, or takes it from those that are open in `container`.
    pub fn of_group(
        container: &Arc<VfioContainer>,
        candidate: &Candidate,
    ) -> Result<Self, OpenError> {
        let container = Arc::clone(container);
        VfioDevice::new(&candidate.sysfs, container, false)
            .map(Self::OfGroup)
            .map_err(|error| OpenError::from_vfio(&candidate.name, error))
    }

    /// Opens a device's own file, or takes the one that is open already.
    pub fn own(
        iommufd: &Arc<Iommufd>,
        hypervisor: Option<Arc<dyn Hypervisor>>,
        candidate: &Candidate,
        open: Option<File>,
    ) -> Result<Self, OpenError> {
        let name = &candidate.name;
        let file = match open {
            Some(file) => file,
            None => {
                let node = candidate.file();
                let node = node.ok_or_else(|| OpenError::NoFile(name.clone()))?;
                File::options()
                    .read(true)
                    .write(true)
                    .open(&node)
                    .map_err(|error| OpenError::from_file(name, node, error))?
            }
        };
        Cdev::join(file, iommufd, hypervisor)
            .map(Self::Own)
            .map_err(|refused| OpenError::from_refusal(name, refused))
    }
}

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::OfGroup(device) => device.as_raw_fd(),
            Self::Own(device) => device.as_raw_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "0000:02:10.0";

    #[test]
    fn names_the_reason_a_group_does_not_open() {
        let opening = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            OpenError::from_vfio(NAME, VfioError::OpenGroup(error, "17".into())).to_string()
        };
        assert!(
            opening(nix::libc::EBUSY).contains("another process has opened its IOMMU group 17")
        );
        assert!(opening(nix::libc::EACCES).contains("no permission to open /dev/vfio/17"));
        assert!(opening(nix::libc::ENOENT).contains("not bound to vfio-pci"));
        let viable = OpenError::from_vfio(NAME, VfioError::GroupViable);
        assert!(viable.to_string().contains("not viable"));
    }

    #[test]
    fn names_the_reason_a_file_does_not_open() {
        let node = PathBuf::from("/dev/vfio/devices/vfio3");
        let opening = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            OpenError::from_file(NAME, node.clone(), error).to_string()
        };
        assert!(
            opening(nix::libc::EACCES).contains("no permission to open /dev/vfio/devices/vfio3")
        );
        assert!(opening(nix::libc::ENOENT).contains("not bound to vfio-pci"));
        assert!(opening(nix::libc::EMFILE).contains("cannot open 0000:02:10.0"));
    }

    #[test]
    fn names_the_step_that_iommufd_refused() {
        let said = |refused: fn(io::Error) -> Refused, errno| {
            let error = io::Error::from_raw_os_error(errno);
            OpenError::from_refusal(NAME, refused(error)).to_string()
        };
        for errno in [nix::libc::EBUSY, nix::libc::EINVAL] {
            assert!(said(Refused::Bound, errno).contains("is in use"));
        }
        assert!(said(Refused::Bound, nix::libc::EPERM).contains("does not remap interrupts"));
        assert!(said(Refused::Bound, nix::libc::ENOMEM).contains("cannot bind"));
        assert!(said(Refused::Told, nix::libc::EINVAL).contains("cannot tell KVM of 0000:02:10.0"));
        let attached = said(Refused::Attached, nix::libc::EADDRINUSE);
        assert!(attached.contains("reserves addresses"));
        assert!(said(Refused::Attached, nix::libc::ENOMEM).contains("cannot attach"));
    }

    #[test]
    fn a_device_without_a_file_is_told_from_one_with() {
        let dir = tempfile::tempdir().unwrap();
        let candidate = Candidate {
            name: NAME.into(),
            address: None,
            sysfs: dir.path().into(),
        };
        assert_eq!(candidate.file(), None);
        fs::create_dir_all(dir.path().join("vfio-dev/vfio12")).unwrap();
        let node = PathBuf::from("/dev/vfio/devices/vfio12");
        assert_eq!(candidate.file(), Some(node));
    }
}
