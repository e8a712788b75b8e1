//! The kernel's two interfaces to the IOMMU, and which of them a machine uses.
//!
//! iommufd is preferred, where it is there and every device has a file of its own. A user who
//! may not open those files may still have been given the groups: then it is type1, and a line
//! in the log says why.

use std::fmt;
use std::path::PathBuf;
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

/// An interface that devices are opened through.
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

    /// Devices that come later have no other wish.
    pub fn check_wishes(&self, wanted: &[config::Assign]) -> Result<(), OtherInterface> {
        let fits = |assign: &&config::Assign| {
            matches!(
                (assign.interface, self),
                (Wish::Auto, _) | (Wish::Iommufd, Self::Iommufd(_)) | (Wish::Type1, Self::Type1(_))
            )
        };
        match wanted.iter().find(|assign| !fits(assign)) {
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
        let open = |prospect: &Prospect| {
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
        };
        prospects.iter().map(open).collect()
    }
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
    let files: Vec<_> = prospects.iter().map(|p| p.candidate.file()).collect();
    let iommufd = match wish.unwrap_or_default() {
        Wish::Type1 => None,
        Wish::Iommufd => Some(open_iommufd(given)?),
        Wish::Auto if host.has_iommufd() => match files.into_iter().collect() {
            Some(files) => permitted_iommufd(files, given)?,
            None => None,
        },
        Wish::Auto => None,
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

fn open_iommufd(given: Option<&Inherited>) -> Result<Iommufd, Error> {
    let given = given.map(Inherited::copy).transpose();
    let given = given.map_err(|source| IommufdError::Kernel {
        what: "copy the descriptor for",
        source,
    })?;
    let opened = match given.flatten() {
        Some(file) => Iommufd::from_file(file),
        None => Iommufd::open(),
    };
    Ok(opened?)
}

/// iommufd, with devices that have these files, unless this user may not open one of them.
fn permitted_iommufd(
    files: Vec<PathBuf>,
    given: Option<&Inherited>,
) -> Result<Option<Iommufd>, Error> {
    let may_open = |file: &PathBuf| access(file, AccessFlags::R_OK | AccessFlags::W_OK).is_ok();
    let closed = match files.into_iter().find(|file| !may_open(file)) {
        Some(file) => file,
        None => match open_iommufd(given) {
            Err(Error::Iommufd(IommufdError::Permission)) => "/dev/iommu".into(),
            Err(Error::Iommufd(IommufdError::Missing)) => return Ok(None),
            other => return other.map(Some),
        },
    };
    tracing::warn!(
        "this user may not open {}: type1 is used in the place of iommufd",
        closed.display()
    );
    Ok(None)
}
