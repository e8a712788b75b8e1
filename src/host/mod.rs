//! What the operator's machine offers: its PCI functions, their drivers and IOMMU groups,
//! and whether one of them can be given to a guest.
//!
//! Everything is read from sysfs and `/dev/vfio` under a root that a test can replace.

mod bind;
mod changes;
mod check;
mod device;
mod drivers;
mod function;
mod group;
mod inherited;
mod interrupts;
mod isolation;
mod journal;
mod kernel;
mod lease;
mod mediated;
mod netlink;
mod ready;
mod sriov;
mod survey;
mod uses;
mod vf;

use std::io;
use std::path::{Path, PathBuf};

use pci::HostBdf;

pub use bind::{BindError, Bound, Released};
pub use changes::{ChangeError, Changes};
pub use check::{Finding, Status};
pub use device::HostDevice;
pub use function::{Bar, BarKind, BarPlace, PciFunction, Resource, SrIov};
pub use group::{Group, Member, Reserved};
pub use inherited::{DescriptorError, Inherited};
pub use interrupts::Remapping;
pub use isolation::Isolation;
pub use journal::RecordError;
pub use kernel::{Kernel, ThisKernel};
pub use lease::{Lease, VfWish};
pub use mediated::{MediatedError, ParseUuidError, Uuid};
pub use netlink::Link;
pub use ready::{AssignError, Assignable};
pub use sriov::{PhysicalFunction, SriovError, VfReport};
pub use survey::Surveyed;
pub use uses::{Process, Use};
pub use vf::{Rate, VfLink, VfSetting, VfSettings, Vlan};

/// The host's file tree.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The machine that Sluice runs on.
    pub fn this_machine() -> Self {
        Self::at("/")
    }

    /// A tree with `sys/` and `dev/` in it.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The PCI function at `address`, `None` if there is no such function.
    pub fn function(&self, address: HostBdf) -> io::Result<Option<PciFunction>> {
        PciFunction::read(&self.devices().join(address.to_string()), address)
    }

    /// The device's address with its name, for whoever reads; the address alone where
    /// nothing else is known.
    pub fn describe(&self, device: impl Into<HostDevice>) -> String {
        let device = device.into();
        match device.pci().map(|address| self.function(address)) {
            Some(Ok(Some(function))) => function.to_string(),
            _ => device.to_string(),
        }
    }

    /// Every PCI function, in order of address.
    pub fn functions(&self) -> io::Result<Vec<PciFunction>> {
        let mut found = Vec::new();
        for name in names_in(&self.devices())? {
            if let Ok(address) = name.parse() {
                found.extend(self.function(address)?);
            }
        }
        Ok(found)
    }

    /// The IOMMU group with this number.
    pub fn group(&self, number: u32) -> io::Result<Group> {
        Group::read(self, number)
    }

    /// The IOMMU is on: there is at least one group.
    pub fn has_iommu(&self) -> bool {
        names_in(&self.groups()).is_ok_and(|groups| !groups.is_empty())
    }

    /// There is iommufd.
    pub fn has_iommufd(&self) -> bool {
        self.has("dev/iommu")
    }

    /// Where sysfs keeps the function, as `vfio-ioctls` wants it.
    pub fn sysfs_path(&self, address: HostBdf) -> PathBuf {
        self.devices().join(address.to_string())
    }

    fn devices(&self) -> PathBuf {
        self.root.join("sys/bus/pci/devices")
    }

    fn groups(&self) -> PathBuf {
        self.root.join("sys/kernel/iommu_groups")
    }

    fn vfio(&self, name: &str) -> PathBuf {
        self.root.join("dev/vfio").join(name)
    }

    /// What a file says, without white space around it; `None` if it is not there or not for
    /// this user.
    fn text(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// There is such a file or directory.
    fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}

/// The names in a directory, sorted; none if there is no such directory.
fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// The last component of what a symbolic link points to: how sysfs names a driver or group.
fn link_name(link: &Path) -> Option<String> {
    let target = std::fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
pub(crate) mod fake_kernel;
#[cfg(test)]
pub(crate) mod fake_server;
#[cfg(test)]
pub(crate) mod fake_tree;
#[cfg(test)]
pub(crate) use inherited::tests as inherited_tests;
#[cfg(test)]
mod tests;
