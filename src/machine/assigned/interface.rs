//! The kernel's two interfaces to the IOMMU, and which of them a machine uses.
//!
//! iommufd is preferred, where it is there and every device has a file of its own. A user who
//! may not open those files may still have been given the groups: then it is type1, and a line
//! in the log says why.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::vfio::KernelDevice;
use iommu::host::{HostMapper, Iommufd, IommufdError, Type1};
use nix::unistd::{AccessFlags, access};

use super::kvm_vfio::KvmVfio;
use super::open::Prospect;
use crate::config::{self, Interface as Wish};
use crate::host::{Host, HostDevice, Inherited};
use crate::machine::Error;

/// A later device asks for another interface than those that are there have.
#[derive(Debug, thiserror::Error)]
#[error(
    "{device} asks for iommu={wish}, but the machine's devices are opened through {interface}, and \
     all must be the same"
)]
pub struct OtherInterface {
    device: HostDevice,
    wish: Wish,
    interface: &'static str,
}

/// An address space of an interface that devices are opened through.
#[derive(Clone)]
pub(super) enum Interface {
    Iommufd(Arc<Iommufd>),
    Type1(Arc<Type1>),
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Interface {
    fn name(&self) -> &'static str {
        match self {
            Self::Iommufd(_) => "iommufd",
            Self::Type1(_) => "type1",
        }
    }

    /// What maps memory for the devices.
    pub fn mapper(&self) -> Arc<dyn HostMapper> {
        match self {
            Self::Iommufd(iommufd) => iommufd.clone(),
            Self::Type1(type1) => type1.clone(),
        }
    }

    /// Another address space of the same kind. With iommufd it is in the same file, for devices
    /// that are reset together must be.
    fn another(&self, kvm: &Arc<KvmVfio>) -> Result<Self, Error> {
        Ok(match self {
            Self::Iommufd(iommufd) => Self::Iommufd(Arc::new(iommufd.another()?)),
            Self::Type1(_) => Self::Type1(Arc::new(Type1::open(Some(kvm.groups()))?)),
        })
    }

    /// Devices that come later have no other wish.
    pub fn check_wishes(&self, wanted: &[config::Assign]) -> Result<(), OtherInterface> {
        let is = match self {
            Self::Iommufd(_) => Wish::Iommufd,
            Self::Type1(_) => Wish::Type1,
        };
        match wanted.iter().find(|assign| !fits(assign.interface, is)) {
            None => Ok(()),
            Some(assign) => Err(OtherInterface {
                device: assign.device,
                wish: assign.interface,
                interface: self.name(),
            }),
        }
    }

    /// Opens all of them, or none.
    pub fn open(
        &self,
        prospects: &[Prospect],
        kvm: &Arc<KvmVfio>,
    ) -> Result<Vec<Arc<KernelDevice>>, Error> {
        prospects.iter().map(|it| self.open_one(it, kvm)).collect()
    }

    /// Opens one of them.
    fn open_one(
        &self,
        prospect: &Prospect,
        kvm: &Arc<KvmVfio>,
    ) -> Result<Arc<KernelDevice>, Error> {
        let candidate = &prospect.candidate;
        let opened = match self {
            Self::Type1(type1) => {
                if let Some(function) = &prospect.function {
                    Host::this_machine().check_group_nodes(function)?;
                }
                KernelDevice::open(type1, candidate)?
            }
            Self::Iommufd(iommufd) => {
                let file = prospect.file.as_ref().and_then(Inherited::take);
                KernelDevice::open_file(iommufd, Some(kvm.clone()), candidate, file)?
            }
        };
        Ok(Arc::new(opened))
    }
}

/// Opens devices of the host, and what they are opened through: in its kernel, or in a fake.
pub(super) trait Opener {
    /// An address space of an interface.
    type Interface: Clone;
    /// A device that is open.
    type Device;

    /// The first address space, of an interface that suits all devices.
    fn choose(&self) -> Result<Self::Interface, Error>;

    /// Another one of the same interface.
    fn another(&self, interface: &Self::Interface) -> Result<Self::Interface, Error>;

    /// No device is to be opened through another interface.
    fn check_wishes(&self, interface: &Self::Interface) -> Result<(), Error>;

    /// What maps memory for the devices.
    fn mapper(&self, interface: &Self::Interface) -> Arc<dyn HostMapper>;

    /// Opens a device.
    fn open(
        &self,
        interface: &Self::Interface,
        prospect: &Prospect,
    ) -> Result<Arc<Self::Device>, Error>;
}

/// The kernel, which is asked for some devices.
pub(super) struct Kernel<'a> {
    pub host: &'a Host,
    pub wanted: &'a [config::Assign],
    pub prospects: &'a [Prospect],
    pub kvm: &'a Arc<KvmVfio>,
}

impl Opener for Kernel<'_> {
    type Interface = Interface;
    type Device = KernelDevice;

    fn choose(&self) -> Result<Interface, Error> {
        choose(self.host, self.wanted, self.prospects, self.kvm)
    }

    fn another(&self, interface: &Interface) -> Result<Interface, Error> {
        interface.another(self.kvm)
    }

    fn check_wishes(&self, interface: &Interface) -> Result<(), Error> {
        Ok(interface.check_wishes(self.wanted)?)
    }

    fn mapper(&self, interface: &Interface) -> Arc<dyn HostMapper> {
        interface.mapper()
    }

    fn open(&self, interface: &Interface, prospect: &Prospect) -> Result<Arc<KernelDevice>, Error> {
        interface.open_one(prospect, self.kvm)
    }
}

fn fits(wish: Wish, interface: Wish) -> bool {
    wish == Wish::Auto || wish == interface
}

/// Opens the interface that the first devices of a machine will use.
pub(super) fn choose(
    host: &Host,
    wanted: &[config::Assign],
    prospects: &[Prospect],
    kvm: &Arc<KvmVfio>,
) -> Result<Interface, Error> {
    let wish = wanted.first().map(|assign| assign.interface);
    let given = wanted.iter().find_map(|assign| assign.iommufd.as_ref());
    let files = prospects.iter().map(|p| p.candidate.file());
    let plan = plan(
        wish.unwrap_or_default(),
        host.has_iommufd(),
        files,
        may_open,
    );
    let iommufd = match plan {
        Plan::Type1 => None,
        Plan::Iommufd => Some(open_iommufd(given)?),
        Plan::IommufdIfPermitted => permitted_iommufd(given)?,
        Plan::Forbidden(file) => {
            tell_forbidden(&file);
            None
        }
    };
    let interface = match iommufd {
        Some(iommufd) => Interface::Iommufd(Arc::new(iommufd)),
        None => Interface::Type1(Arc::new(Type1::open(Some(kvm.groups()))?)),
    };
    tracing::info!(
        devices = prospects.len(),
        "devices are opened through {interface}"
    );
    Ok(interface)
}

/// What to try.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Plan {
    Type1,
    Iommufd,
    /// Type1 if this user may not open it.
    IommufdIfPermitted,
    /// Type1, as this user may not open a device's file.
    Forbidden(PathBuf),
}

/// What the wish comes to, for devices with such files of their own.
fn plan(
    wish: Wish,
    has_iommufd: bool,
    files: impl Iterator<Item = Option<PathBuf>>,
    may_open: impl Fn(&Path) -> bool,
) -> Plan {
    match wish {
        Wish::Type1 => Plan::Type1,
        Wish::Iommufd => Plan::Iommufd,
        Wish::Auto if !has_iommufd => Plan::Type1,
        Wish::Auto => match files.collect::<Option<Vec<_>>>() {
            None => Plan::Type1,
            Some(files) => {
                let closed = files.into_iter().find(|file| !may_open(file));
                closed.map_or(Plan::IommufdIfPermitted, Plan::Forbidden)
            }
        },
    }
}

fn may_open(file: &Path) -> bool {
    access(file, AccessFlags::R_OK | AccessFlags::W_OK).is_ok()
}

fn open_iommufd(given: Option<&Inherited>) -> Result<Iommufd, IommufdError> {
    let given = given.map(Inherited::copy).transpose();
    let given = given.map_err(|source| IommufdError::Kernel {
        what: "copy the descriptor for",
        source,
    })?;
    match given.flatten() {
        Some(file) => Iommufd::from_file(file),
        None => Iommufd::open(),
    }
}

fn permitted_iommufd(given: Option<&Inherited>) -> Result<Option<Iommufd>, IommufdError> {
    match open_iommufd(given) {
        Ok(iommufd) => Ok(Some(iommufd)),
        Err(IommufdError::Permission) => {
            tell_forbidden(Path::new("/dev/iommu"));
            Ok(None)
        }
        // The node is there, the module is not.
        Err(IommufdError::Missing) => Ok(None),
        Err(error) => Err(error),
    }
}

fn tell_forbidden(file: &Path) {
    tracing::warn!(
        "this user may not open {}: type1 is used in the place of iommufd",
        file.display()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 2] = ["/dev/vfio/devices/vfio0", "/dev/vfio/devices/vfio1"];

    fn planned(wish: Wish, has_iommufd: bool, files: [Option<&str>; 2], open: &[&str]) -> Plan {
        let files = files.into_iter().map(|file| file.map(PathBuf::from));
        plan(wish, has_iommufd, files, |file| {
            open.iter().any(|open| file == Path::new(open))
        })
    }

    #[test]
    fn iommufd_is_used_where_all_have_it() {
        let [first, second] = FILES;
        let both = [Some(first), Some(second)];
        let auto = |has_iommufd, files, open| planned(Wish::Auto, has_iommufd, files, open);
        assert_eq!(auto(true, both, &FILES), Plan::IommufdIfPermitted);
        assert_eq!(auto(false, both, &FILES), Plan::Type1);
        assert_eq!(auto(true, [Some(first), None], &FILES), Plan::Type1);
        let forbidden = Plan::Forbidden(second.into());
        assert_eq!(auto(true, both, &[first]), forbidden);
    }

    #[test]
    fn what_is_asked_for_is_tried_whatever_there_is() {
        let none = [None, None];
        assert_eq!(planned(Wish::Iommufd, false, none, &[]), Plan::Iommufd);
        let both = FILES.map(Some);
        assert_eq!(planned(Wish::Type1, true, both, &FILES), Plan::Type1);
    }

    #[test]
    fn a_later_device_takes_what_there_is_or_asks_for_the_same() {
        for interface in [Wish::Iommufd, Wish::Type1] {
            assert!(fits(Wish::Auto, interface) && fits(interface, interface));
        }
        assert!(!fits(Wish::Type1, Wish::Iommufd) && !fits(Wish::Iommufd, Wish::Type1));
        let error = OtherInterface {
            device: HostDevice::Pci("0000:02:10.0".parse().unwrap()),
            wish: Wish::Type1,
            interface: "iommufd",
        };
        assert!(error.to_string().contains("asks for iommu=type1"));
    }
}
