//! All that is known about a function at once, for whoever looks at the host.

use std::io;

use pci::HostBdf;

use super::uses::Openers;
use super::{AssignError, Host, Member, PciFunction};

/// A function of the host's and whether a guest can have it.
#[derive(Debug)]
pub struct Surveyed {
    /// The function.
    pub function: PciFunction,
    /// Who else is in its IOMMU group.
    pub companions: Vec<Member>,
    /// What keeps it from a guest, if anything does.
    pub obstacle: Option<AssignError>,
}

impl Host {
    /// Every PCI function, in order of address.
    pub fn survey(&self) -> io::Result<Vec<Surveyed>> {
        let openers = self.openers();
        let functions = self.functions()?.into_iter();
        functions.map(|f| self.look_at(f, &openers)).collect()
    }

    /// The function at `address`.
    pub fn survey_one(&self, address: HostBdf) -> Result<Surveyed, AssignError> {
        let sysfs_error = |e| AssignError::Sysfs(address, e);
        let function = self.function(address).map_err(sysfs_error)?;
        let function = function.ok_or(AssignError::NoSuchDevice(address))?;
        let openers = self.openers();
        self.look_at(function, &openers).map_err(sysfs_error)
    }

    fn look_at(&self, function: PciFunction, openers: &Openers) -> io::Result<Surveyed> {
        let group = function
            .group
            .map(|number| self.group(number))
            .transpose()?;
        let others = group.iter().flat_map(|g| g.others(function.address));
        Ok(Surveyed {
            companions: others.cloned().collect(),
            obstacle: self.assess(function.address, openers).err(),
            function,
        })
    }
}
