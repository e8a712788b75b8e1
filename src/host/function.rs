//! A PCI function of the host, as sysfs tells it
//! (Documentation/ABI/testing/sysfs-bus-pci).

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use pci::HostBdf;
use pci_ids::FromId;

use super::link_name;

/// A function of the host's.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct PciFunction {
    /// Where it is.
    pub address: HostBdf,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor and device ID.
    pub subsystem: (u16, u16),
    /// Class code: base, sub-class and interface in bits 23:0.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// Its IOMMU group; `None` if no IOMMU is in front of it.
    pub group: Option<u32>,
    /// The NUMA node it is attached to, where the host says.
    pub numa_node: Option<u32>,
    /// BARs 0 to 5, the ROM, and what else the kernel lists, in that order; empty ones too.
    pub resources: Vec<Resource>,
    /// The physical function, if this is a virtual one.
    pub physical: Option<HostBdf>,
    /// Its virtual functions, if it can have any.
    pub sriov: Option<SrIov>,
    /// Ways in which the kernel can reset it, best first; none if it cannot.
    pub reset_methods: Vec<String>,
}

/// What a physical function says of its virtual ones.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct SrIov {
    /// How many it can have.
    pub total: u16,
    /// Those that there are, in order of their numbers.
    pub made: Vec<HostBdf>,
}

impl SrIov {
    fn read(dir: &Path) -> Option<Self> {
        let total = fs::read_to_string(dir.join("sriov_totalvfs")).ok()?;
        let virtual_function = |n: u16| link_name(&dir.join(format!("virtfn{n}")))?.parse().ok();
        Some(Self {
            total: total.trim().parse().ok()?,
            made: (0..).map_while(virtual_function).collect(),
        })
    }
}

/// A BAR or option ROM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// Which.
    pub place: BarPlace,
    /// What it decodes.
    pub kind: BarKind,
    /// Where it is on the host.
    pub address: u64,
    /// Bytes, or I/O ports.
    pub size: u64,
}

/// Which of a function's base address registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarPlace {
    /// BAR 0 to 5.
    Bar(u8),
    /// The expansion ROM's.
    Rom,
}

/// What a BAR decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// I/O ports.
    Ports,
    /// Memory.
    Memory {
        /// Its register is of 64 bits, not 32.
        wide: bool,
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

/// A range that the function decodes on the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Resource {
    /// First address; all zero for one that is not there.
    pub start: u64,
    /// Last address.
    pub end: u64,
    /// The kernel's `IORESOURCE_*` flags.
    pub flags: u64,
}

impl Resource {
    // Bits of `flags` (the kernel's include/linux/ioport.h).
    const IO: u64 = 0x100;
    const PREFETCH: u64 = 0x2000;
    const MEM_64: u64 = 0x10_0000;

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self.end {
            0 => 0,
            end => end.wrapping_sub(self.start).wrapping_add(1),
        }
    }

    /// There is no such range.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn kind(&self) -> BarKind {
        if self.flags & Self::IO != 0 {
            return BarKind::Ports;
        }
        BarKind::Memory {
            wide: self.flags & Self::MEM_64 != 0,
            prefetchable: self.flags & Self::PREFETCH != 0,
        }
    }

    fn parse(line: &str) -> Self {
        let mut fields = line.split_whitespace().map(|f| hex(f).unwrap_or(0));
        let mut next = || fields.next().unwrap_or(0);
        Self {
            start: next(),
            end: next(),
            flags: next(),
        }
    }
}

impl PciFunction {
    pub(super) fn read(dir: &Path, address: HostBdf) -> io::Result<Option<Self>> {
        if !dir.try_exists()? {
            return Ok(None);
        }
        let number = |name: &str| -> io::Result<u64> {
            let text = fs::read_to_string(dir.join(name))?;
            hex(text.trim()).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{}: '{}' is no number",
                        dir.join(name).display(),
                        text.trim()
                    ),
                )
            })
        };
        let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        let vendor = match number("vendor") {
            // It went away just now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            vendor => vendor? as u16,
        };
        Ok(Some(Self {
            address,
            vendor,
            device: number("device")? as u16,
            subsystem: (
                number("subsystem_vendor").unwrap_or(0) as u16,
                number("subsystem_device").unwrap_or(0) as u16,
            ),
            class: number("class")? as u32,
            revision: number("revision").unwrap_or(0) as u8,
            driver: link_name(&dir.join("driver")),
            group: link_name(&dir.join("iommu_group")).and_then(|name| name.parse().ok()),
            // -1 where the host does not say.
            numa_node: text("numa_node").trim().parse().ok(),
            resources: text("resource").lines().map(Resource::parse).collect(),
            physical: link_name(&dir.join("physfn")).and_then(|name| name.parse().ok()),
            sriov: SrIov::read(dir),
            reset_methods: text("reset_method")
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
        }))
    }

    /// A PCI-to-PCI bridge, such as a root port: it belongs to the fabric and does not stand
    /// in the way of its group.
    pub fn is_bridge(&self) -> bool {
        self.class >> 8 == 0x0604
    }

    /// Its BARs and its ROM: those that it has.
    pub fn bars(&self) -> impl Iterator<Item = Bar> {
        let places = (0..6).map(BarPlace::Bar).chain([BarPlace::Rom]);
        let both = places.zip(&self.resources);
        both.filter(|(_, range)| !range.is_empty())
            .map(|(place, range)| Bar {
                place,
                kind: range.kind(),
                address: range.start,
                size: range.len(),
            })
    }

    /// Its vendor's name, if the PCI database has it.
    pub fn vendor_name(&self) -> Option<&'static str> {
        pci_ids::Vendor::from_id(self.vendor).map(|vendor| vendor.name())
    }

    /// Its own name, if the PCI database has it.
    pub fn device_name(&self) -> Option<&'static str> {
        pci_ids::Device::from_vid_pid(self.vendor, self.device).map(|device| device.name())
    }

    /// Its vendor's and its own name, or its numbers where the PCI database has none.
    pub fn name(&self) -> String {
        match (self.vendor_name(), self.device_name()) {
            (Some(vendor), Some(device)) => format!("{vendor} {device}"),
            (Some(vendor), None) => format!("{vendor} device {:04x}", self.device),
            _ => format!("device {:04x}:{:04x}", self.vendor, self.device),
        }
    }

    /// What its class code says it is: `Ethernet controller`.
    pub fn class_name(&self) -> String {
        let [_, base, sub, _] = self.class.to_be_bytes();
        let name = pci_ids::Subclass::from_cid_sid(base, sub)
            .map(|class| class.name())
            .or_else(|| pci_ids::Class::from_id(base).map(|class| class.name()));
        name.map_or_else(|| format!("class {:04x}", self.class >> 8), str::to_owned)
    }
}

impl fmt::Display for PciFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.name())
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}
