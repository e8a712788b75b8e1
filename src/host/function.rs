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
    /// Ways in which the kernel can reset it, best first; none if it cannot.
    pub reset_methods: Vec<String>,
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
        Ok(Some(Self {
            address,
            vendor: number("vendor")? as u16,
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

    /// Its vendor's and its own name, or its numbers where the PCI database has none.
    pub fn name(&self) -> String {
        let vendor = pci_ids::Vendor::from_id(self.vendor);
        let device = pci_ids::Device::from_vid_pid(self.vendor, self.device);
        match (vendor, device) {
            (Some(vendor), Some(device)) => format!("{} {}", vendor.name(), device.name()),
            (Some(vendor), None) => format!("{} device {:04x}", vendor.name(), self.device),
            _ => format!("device {:04x}:{:04x}", self.vendor, self.device),
        }
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
