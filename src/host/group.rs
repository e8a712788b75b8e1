//! IOMMU groups: the smallest set of functions that the host's IOMMU can tell apart. What
//! shares a group with an assigned function is within its reach by DMA, so the kernel hands
//! out a group only as a whole.

use std::fmt;
use std::io;

use super::{Host, PciFunction, link_name, names_in};

/// A group and what is in it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Group {
    /// Its number, as in `/dev/vfio/NUMBER`.
    pub number: u32,
    /// What is in it.
    pub members: Vec<Member>,
}

/// A device of a group.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub enum Member {
    /// A PCI function.
    Pci(PciFunction),
    /// Something else with DMA, by its name and driver.
    Other {
        /// Its name in sysfs.
        name: String,
        /// The driver bound to it.
        driver: Option<String>,
    },
}

impl Group {
    pub(super) fn read(host: &Host, number: u32) -> io::Result<Self> {
        let dir = host.groups().join(number.to_string()).join("devices");
        let mut members = Vec::new();
        for name in names_in(&dir)? {
            let function = match name.parse() {
                Ok(address) => host.function(address)?,
                Err(_) => None,
            };
            members.push(match function {
                Some(function) => Member::Pci(function),
                None => Member::Other {
                    driver: link_name(&dir.join(&name).join("driver")),
                    name,
                },
            });
        }
        Ok(Self { number, members })
    }

    /// The members whose drivers keep the group from being handed out.
    pub fn in_the_way(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.is_in_the_way())
    }
}

impl Member {
    /// The driver bound to it.
    pub fn driver(&self) -> Option<&str> {
        match self {
            Self::Pci(function) => function.driver.as_deref(),
            Self::Other { driver, .. } => driver.as_deref(),
        }
    }

    /// A driver that does DMA of its own holds it. VFIO's drivers and pci-stub do none, and
    /// those of bridges say that they leave DMA to the group's owner.
    fn is_in_the_way(&self) -> bool {
        let fabric = matches!(self, Self::Pci(function) if function.is_bridge());
        !fabric
            && self
                .driver()
                .is_some_and(|driver| driver != "pci-stub" && !is_vfio(driver))
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = self.driver().unwrap_or("no driver");
        match self {
            Self::Pci(function) => {
                write!(f, "{} ({}, {driver})", function.address, function.name())
            }
            Self::Other { name, .. } => write!(f, "{name} ({driver})"),
        }
    }
}

/// `vfio-pci`, or one of its variants for a particular device (`mlx5_vfio_pci` and others).
pub(super) fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("_vfio_pci") || driver.ends_with("-vfio-pci")
}
