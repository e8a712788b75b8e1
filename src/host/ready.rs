//! Whether a function of the host can be given to a guest, and if not, why and what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::unistd::{AccessFlags, access};
use pci::HostBdf;

use super::group::is_vfio;
use super::{Group, Host, Member, PciFunction};

/// A function that is ready to be assigned.
#[derive(Clone, Debug)]
pub struct Assignable {
    /// The function.
    pub function: PciFunction,
    /// Its group, all of which is free.
    pub group: Group,
    /// Where sysfs keeps it.
    pub sysfs: PathBuf,
}

/// Why a function cannot be given to a guest.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// There is no such function.
    #[error("there is no PCI device {0} on this host (`lspci -D` lists what there is)")]
    NoSuchDevice(HostBdf),
    /// A bridge.
    #[error("{0} is a PCI bridge: assign the devices behind it instead")]
    IsBridge(Box<PciFunction>),
    /// No IOMMU at all.
    #[error(
        "{0} has no IOMMU group because this host's IOMMU is off: enable VT-d (or AMD-Vi) in its \
         firmware and boot it with intel_iommu=on"
    )]
    IommuOff(Box<PciFunction>),
    /// The IOMMU is on, but not in front of this function.
    #[error("{0} has no IOMMU group: no IOMMU of this host is in front of it")]
    NoGroup(Box<PciFunction>),
    /// The host itself uses it.
    #[error(
        "{function} is bound to the driver {driver}: give it to VFIO with `{}`",
        Rebind(function)
    )]
    OtherDriver {
        /// The function.
        function: Box<PciFunction>,
        /// Its driver.
        driver: String,
    },
    /// No driver has it.
    #[error(
        "{function} is not bound to vfio-pci: bind it with `{}`",
        Rebind(function)
    )]
    NotBound {
        /// The function.
        function: Box<PciFunction>,
    },
    /// Others of the group are in use by the host.
    #[error(
        "{function} cannot be assigned: IOMMU group {group} is not viable, as the host uses {} of \
         the same group; bind each to vfio-pci too, or unbind it from its driver",
        list(in_the_way)
    )]
    NotViable {
        /// The function.
        function: Box<PciFunction>,
        /// Its group.
        group: u32,
        /// What is in the way.
        in_the_way: Vec<Member>,
    },
    /// The group's device node is not there.
    #[error("{} does not exist: load VFIO with `modprobe vfio-pci`", .0.display())]
    NoVfio(PathBuf),
    /// The device node may not be opened.
    #[error(
        "no permission to open {}: run as root, or give this user the file with `chown`", .0.display()
    )]
    Permission(PathBuf),
    /// Sysfs could not be read.
    #[error("cannot read about {0}")]
    Sysfs(HostBdf, #[source] io::Error),
}

impl Host {
    /// Finds out whether the function at `address` can be assigned. What only opening it can
    /// tell, such as that another process has it, is told when it is opened.
    pub fn check_assignable(&self, address: HostBdf) -> Result<Assignable, AssignError> {
        let sysfs_error = |e| AssignError::Sysfs(address, e);
        let function = self.function(address).map_err(sysfs_error)?;
        let function = Box::new(function.ok_or(AssignError::NoSuchDevice(address))?);
        if function.is_bridge() {
            return Err(AssignError::IsBridge(function));
        }
        let Some(number) = function.group else {
            return Err(if self.has_iommu() {
                AssignError::NoGroup(function)
            } else {
                AssignError::IommuOff(function)
            });
        };
        match function.driver.clone() {
            None => return Err(AssignError::NotBound { function }),
            Some(driver) if !is_vfio(&driver) => {
                return Err(AssignError::OtherDriver { function, driver });
            }
            Some(_) => (),
        }
        let group = self.group(number).map_err(sysfs_error)?;
        let in_the_way: Vec<_> = group.in_the_way().cloned().collect();
        if !in_the_way.is_empty() {
            return Err(AssignError::NotViable {
                function,
                group: number,
                in_the_way,
            });
        }
        for name in ["vfio", &number.to_string()] {
            self.check_node(name)?;
        }
        Ok(Assignable {
            sysfs: self.sysfs_path(address),
            function: *function,
            group,
        })
    }

    fn check_node(&self, name: &str) -> Result<(), AssignError> {
        let path = self.vfio(name);
        if !path.exists() {
            return Err(AssignError::NoVfio(path));
        }
        access(&path, AccessFlags::R_OK | AccessFlags::W_OK)
            .map_err(|_| AssignError::Permission(path))
    }
}

/// The shell command that hands a function to vfio-pci.
struct Rebind<'a>(&'a PciFunction);

impl fmt::Display for Rebind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.0.address;
        let sysfs = "/sys/bus/pci";
        write!(f, "modprobe vfio-pci; ")?;
        write!(
            f,
            "echo vfio-pci > {sysfs}/devices/{address}/driver_override; "
        )?;
        if self.0.driver.is_some() {
            write!(
                f,
                "echo {address} > {sysfs}/devices/{address}/driver/unbind; "
            )?;
        }
        write!(f, "echo {address} > {sysfs}/drivers_probe")
    }
}

fn list(members: &[Member]) -> String {
    let names: Vec<_> = members.iter().map(ToString::to_string).collect();
    names.join(" and ")
}
