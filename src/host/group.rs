//! IOMMU groups: the smallest set of functions that the host's IOMMU can tell apart. What
//! shares a group with an assigned function is within its reach by DMA, so the kernel hands
//! out a group only as a whole.

use std::fmt;
use std::io;

use pci::HostBdf;

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

    /// Who is in it besides the function at `address`.
    pub fn others(&self, address: HostBdf) -> impl Iterator<Item = &Member> {
        let is_it = move |m: &Member| m.function().is_some_and(|f| f.address == address);
        self.members.iter().filter(move |m| !is_it(m))
    }

    /// The PCI functions in it that could be given to a guest.
    pub fn endpoints(&self) -> impl Iterator<Item = &PciFunction> {
        let functions = self.members.iter().filter_map(Member::function);
        functions.filter(|f| !f.is_bridge())
    }

    /// The bridges in it.
    pub fn bridges(&self) -> impl Iterator<Item = &PciFunction> {
        let functions = self.members.iter().filter_map(Member::function);
        functions.filter(|f| f.is_bridge())
    }
}

impl Member {
    /// The PCI function, if it is one.
    pub fn function(&self) -> Option<&PciFunction> {
        match self {
            Self::Pci(function) => Some(function),
            Self::Other { .. } => None,
        }
    }

    /// Its address, or its name in sysfs.
    pub fn id(&self) -> String {
        match self {
            Self::Pci(function) => function.address.to_string(),
            Self::Other { name, .. } => name.clone(),
        }
    }

    /// The driver bound to it.
    pub fn driver(&self) -> Option<&str> {
        match self {
            Self::Pci(function) => function.driver.as_deref(),
            Self::Other { driver, .. } => driver.as_deref(),
        }
    }

    /// A driver that does DMA of its own holds it. VFIO's drivers and pci-stub do none, and
    /// those of bridges say that they leave DMA to the group's owner.
    pub(super) fn is_in_the_way(&self) -> bool {
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

/// Memory that the firmware wants its devices to reach (VT-d's RMRR, AMD-Vi's unity maps).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// First address.
    pub start: u64,
    /// Last address.
    pub end: u64,
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}–{:#x}", self.start, self.end)
    }
}

impl Host {
    /// Memory that must stay mapped for the group's devices, so that the kernel hands none
    /// of them to a guest: `direct` regions. `direct-relaxable` ones are for a driver that
    /// is gone by then (Documentation/ABI/testing/sysfs-kernel-iommu_groups).
    pub(super) fn reserved(&self, group: u32) -> Vec<Reserved> {
        let regions = format!("sys/kernel/iommu_groups/{group}/reserved_regions");
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        let direct = |line: &str| {
            let mut fields = line.split_whitespace();
            let (start, end) = (number(fields.next()?)?, number(fields.next()?)?);
            (fields.next() == Some("direct")).then_some(Reserved { start, end })
        };
        let text = self.text(&regions).unwrap_or_default();
        text.lines().filter_map(direct).collect()
    }
}

/// `vfio-pci`, or one of its variants for a particular device (`mlx5_vfio_pci` and others).
pub(super) fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("_vfio_pci") || driver.ends_with("-vfio-pci")
}
