//! What can be assigned, as it is called: a PCI function or a mediated device.

use std::fmt;

use pci::HostBdf;

use super::Uuid;

/// A device of the host's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
pub enum HostDevice {
    /// A PCI function.
    Pci(HostBdf),
    /// A mediated device.
    Mediated(Uuid),
}

impl HostDevice {
    /// Its address, if it is on the PCI bus.
    pub fn pci(self) -> Option<HostBdf> {
        match self {
            Self::Pci(address) => Some(address),
            Self::Mediated(_) => None,
        }
    }
}

impl fmt::Display for HostDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => write!(f, "{address}"),
            Self::Mediated(uuid) => write!(f, "mdev {uuid}"),
        }
    }
}

impl From<HostBdf> for HostDevice {
    fn from(address: HostBdf) -> Self {
        Self::Pci(address)
    }
}
