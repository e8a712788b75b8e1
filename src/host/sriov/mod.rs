//! Virtual functions (PCI Express base specification, chapter 9; Documentation/PCI/
//! pci-iov-howto.rst): what a physical function has, who uses them, and `sluice sriov`, which makes them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use pci::HostBdf;

use super::changes::ChangeError;
use super::group::is_vfio;
use super::vf::VfSettings;
use super::{AssignError, Host, PciFunction};

mod make;
mod users;

pub use users::VfReport;

/// Why virtual functions cannot be made, changed or lent.
#[derive(Debug, thiserror::Error)]
pub enum SriovError {
    /// It is not even there.
    #[error(transparent)]
    Device(#[from] AssignError),
    /// A VF.
    #[error("{0} is a virtual function itself; its physical function is {1}")]
    IsVf(Box<PciFunction>, HostBdf),
    /// Without the capability.
    #[error(
        "{0} has no virtual functions to offer: it has no SR-IOV capability, or its firmware hides it"
    )]
    NoSriov(Box<PciFunction>),
    /// Nobody could make VFs.
    #[error("{pf} {}", no_maker(pf))]
    NoDriver {
        /// The PF.
        pf: Box<PciFunction>,
    },
    /// More than there can be.
    #[error("{pf} can have {total} virtual functions, not {asked}")]
    TooMany {
        /// The PF.
        pf: Box<PciFunction>,
        /// How many it offers.
        total: u16,
        /// How many were asked for.
        asked: usize,
    },
    /// A setting for a VF that is not there.
    #[error("{pf} has no virtual function {number}: there are {made}, counted from 0")]
    NoSuchVf {
        /// The PF.
        pf: HostBdf,
        /// What was asked for.
        number: u32,
        /// How many there are, or are to be.
        made: u16,
    },
    /// No network card, or none that the host's network knows.
    #[error(
        "{0} has no network interface on this host, so mac, vlan and the like cannot be set for its \
         virtual functions"
    )]
    NoInterface(Box<PciFunction>),
    /// The number cannot be changed under somebody's feet.
    #[error(
        "the number of virtual functions of {pf} cannot change while one is in use: {}",
        busy.join(", ")
    )]
    InUse {
        /// The PF.
        pf: HostBdf,
        /// Each VF that is in use, and by whom.
        busy: Vec<String>,
    },
    /// None to lend.
    #[error(
        "no virtual function of {pf} is free for --vf: {}; `sluice sriov {pf} --vfs N` makes more, \
         once all are free", busy.join(", ")
    )]
    NoneFree {
        /// The PF.
        pf: HostBdf,
        /// Each VF that is in use, and by whom.
        busy: Vec<String>,
    },
    /// No vfio-pci.
    #[error("`modprobe vfio-pci` failed: install the kernel's modules")]
    NoVfioPci(#[source] io::Error),
    /// Nothing could be changed yet.
    #[error(transparent)]
    Begin(#[from] ChangeError),
    /// A change did not work; what was changed before is as it was.
    #[error("the virtual functions of {pf}")]
    Change {
        /// The PF.
        pf: HostBdf,
        /// What did not work.
        #[source]
        source: ChangeError,
    },
}

fn no_maker(pf: &PciFunction) -> String {
    let address = pf.address;
    match &pf.driver {
        Some(driver) => format!(
            "is bound to {driver}, but its own driver is what makes virtual functions: give it back \
             with `sluice release {address}`"
        ),
        None => "has no driver, which would make virtual functions: load it with `modprobe`".into(),
    }
}

/// A physical function and its virtual ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PhysicalFunction {
    /// The physical function.
    pub function: PciFunction,
    /// How many virtual functions it can have.
    pub total: u16,
    /// Whether the host's drivers take new ones.
    pub autoprobe: bool,
    /// Those it has, by number.
    pub vfs: Vec<PciFunction>,
    /// The PF's network interface.
    pub interface: Option<String>,
}

impl Host {
    /// How many VFs a function has; none if it can have none.
    pub(in crate::host) fn vf_count(&self, pf: HostBdf) -> io::Result<u16> {
        Ok(number(&self.sysfs_path(pf).join("sriov_numvfs"))?.unwrap_or(0))
    }

    /// A PF's VF of this number, if it is there.
    fn vf(&self, pf: HostBdf, number: u16) -> io::Result<Option<PciFunction>> {
        let link = self.sysfs_path(pf).join(format!("virtfn{number}"));
        let address = super::link_name(&link).and_then(|name| name.parse().ok());
        match address {
            Some(address) => self.function(address),
            None => Ok(None),
        }
    }

    /// The physical function at `address` and its virtual ones.
    pub fn physical_function(&self, address: HostBdf) -> Result<PhysicalFunction, SriovError> {
        let sysfs = |e| AssignError::Sysfs(address, e);
        let pf = self.function(address).map_err(sysfs)?;
        let pf = Box::new(pf.ok_or(AssignError::NoSuchDevice(address))?);
        if let Some(physical) = pf.physical {
            return Err(SriovError::IsVf(pf, physical));
        }
        let dir = self.sysfs_path(address);
        let Some(total) = number(&dir.join("sriov_totalvfs")).map_err(sysfs)? else {
            return Err(SriovError::NoSriov(pf));
        };
        let made = self.vf_count(address).map_err(sysfs)?;
        let each = (0..made).filter_map(|n| self.vf(address, n).transpose());
        let interfaces = self.interfaces(&pf).map_err(sysfs)?;
        Ok(PhysicalFunction {
            total,
            autoprobe: number(&dir.join("sriov_drivers_autoprobe")).map_err(sysfs)? != Some(0),
            vfs: each.collect::<io::Result<Vec<_>>>().map_err(sysfs)?,
            interface: interfaces.into_iter().next(),
            function: *pf,
        })
    }

    /// It is on the bus, has its group and answers when its config space is read. (Vendor and
    /// device ID of a VF read as all ones, 9.3.4.1.1; its class code does not.)
    fn vf_answers(&self, vf: &PciFunction) -> bool {
        let mut header = [0; 12];
        let config = File::open(self.sysfs_path(vf.address).join("config"));
        let read = config.and_then(|mut file| file.read_exact(&mut header));
        read.is_ok() && header[8..] != [0xff; 4] && (vf.group.is_some() || !self.has_iommu())
    }
}

/// A number in a file; `None` if there is no such file.
fn number(path: &Path) -> io::Result<Option<u16>> {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl PhysicalFunction {
    /// Where it is.
    pub fn address(&self) -> HostBdf {
        self.function.address
    }

    /// How many VFs there are.
    pub fn made(&self) -> u16 {
        self.vfs.len() as u16
    }

    /// Whether there can be so many VFs with these settings.
    pub(in crate::host) fn check(
        &self,
        count: u16,
        settings: &[(u32, VfSettings)],
    ) -> Result<(), SriovError> {
        let pf = || Box::new(self.function.clone());
        if count > self.total {
            return Err(SriovError::TooMany {
                pf: pf(),
                total: self.total,
                asked: count.into(),
            });
        }
        if self.function.driver.as_deref().is_none_or(is_vfio) {
            return Err(SriovError::NoDriver { pf: pf() });
        }
        if let Some((number, _)) = settings.iter().find(|(n, _)| *n >= u32::from(count)) {
            return Err(SriovError::NoSuchVf {
                pf: self.address(),
                number: *number,
                made: count,
            });
        }
        if self.interface.is_none() && settings.iter().any(|(_, s)| !s.is_empty()) {
            return Err(SriovError::NoInterface(pf()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
