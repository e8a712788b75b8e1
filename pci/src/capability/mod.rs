//! Capabilities: values that lay themselves into a config space and settle what a write
//! to them means (PCIe 6.0 §7.5.2, §7.5.3, §7.7, §7.9).

mod express;
mod extended;
mod msi;
mod msix;
mod power;

pub(crate) use express::offset as express_offset;
pub use express::{Express, ExpressKind, Link, Slot};
pub(crate) use extended::aer_offset;
pub use extended::{Acs, Aer, Ari, ExtendedCapability};
pub use msi::Msi;
pub use msix::Msix;
pub use power::{PowerManagement, PowerState};

use crate::space::Image;
use crate::{BarIndex, ConfigWrite, Register};

/// A capability of the first 256 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Capability {
    /// Power management.
    PowerManagement(PowerManagement),
    /// Message signalled interrupts.
    Msi(Msi),
    /// MSI-X.
    Msix(Msix),
    /// PCI Express.
    Express(Express),
    /// Vendor-specific: the bytes after the length, read-only until
    /// [`crate::ConfigSpace::define`] says otherwise.
    Vendor(Vec<u8>),
    /// The subsystem identity of a bridge (§7.9.23).
    Subsystem {
        /// Subsystem Vendor ID.
        vendor: u16,
        /// Subsystem ID.
        device: u16,
    },
}

/// A capability that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// Config space is full.
    #[error("no room for another capability")]
    NoRoom,
    /// The place is taken, or no place for a capability.
    #[error("a capability cannot be at offset {0:#x}")]
    Overlap(u16),
}

/// One dword of a capability, as it is laid.
#[derive(Clone, Copy, Default)]
pub(crate) struct Dword {
    pub value: u32,
    pub writable: u32,
    pub clearable: u32,
}

impl Dword {
    pub fn fixed(value: u32) -> Self {
        Self::new(value, 0, 0)
    }

    pub fn new(value: u32, writable: u32, clearable: u32) -> Self {
        Self {
            value,
            writable,
            clearable,
        }
    }
}

/// What a write did beyond bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    Plain,
    /// The function resets itself.
    FunctionReset,
}

impl Capability {
    /// Capability ID (PCI Code and ID Assignment 1.11 §2).
    pub(crate) fn id(&self) -> u8 {
        match self {
            Self::PowerManagement(_) => 0x01,
            Self::Msi(_) => 0x05,
            Self::Vendor(_) => 0x09,
            Self::Subsystem { .. } => 0x0d,
            Self::Express(_) => 0x10,
            Self::Msix(_) => 0x11,
        }
    }

    /// The registers, the low half of the first left to the ID and the link.
    pub(crate) fn dwords(&self) -> Vec<Dword> {
        match self {
            Self::PowerManagement(power) => power.dwords(),
            Self::Msi(msi) => msi.dwords(),
            Self::Msix(msix) => msix.dwords(),
            Self::Express(express) => express.dwords(),
            Self::Vendor(body) => vendor(body),
            Self::Subsystem { vendor, device } => {
                let ids = u32::from(*device) << 16 | u32::from(*vendor);
                vec![Dword::default(), Dword::fixed(ids)]
            }
        }
    }
}

/// §7.9.4: ID, link, length of it all, then what the vendor likes.
fn vendor(body: &[u8]) -> Vec<Dword> {
    let mut bytes = vec![0, 0, (body.len() + 3).min(0xff) as u8];
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
        .chunks_exact(4)
        .map(|b| Dword::fixed(u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
        .collect()
}

/// A capability in its place.
#[derive(Clone)]
pub(crate) struct Linked {
    pub offset: u16,
    pub dwords: u16,
    pub capability: Capability,
}

impl Linked {
    pub fn holds(&self, register: Register) -> bool {
        (self.offset..self.offset + 4 * self.dwords).contains(&register.offset())
    }

    /// Makes the bits of `write` mean what they say; `old` is what the register held.
    pub fn settle(&self, image: &mut Image, write: ConfigWrite, old: u32) -> Effect {
        match &self.capability {
            Capability::PowerManagement(_) => power::settle(image, self.offset, write, old),
            Capability::Express(express) => express.settle(write, self.offset),
            _ => Effect::Plain,
        }
    }

    /// Reads the value's state back from the registers.
    pub fn refresh(&mut self, image: &mut Image) {
        match &mut self.capability {
            Capability::Msi(msi) => msi.load(image, self.offset),
            Capability::Msix(msix) => msix.load(image, self.offset),
            _ => {}
        }
    }

    pub fn power_state(&self, image: &Image) -> Option<PowerState> {
        match self.capability {
            Capability::PowerManagement(_) => Some(power::state(image, self.offset)),
            _ => None,
        }
    }

    /// Where in the image Max_Payload_Size and the link registers are, which a function's
    /// own reset leaves alone.
    pub fn link_registers(&self) -> Option<[(Register, u32); 3]> {
        match self.capability {
            Capability::Express(_) => Some(express::link_registers(self.offset)),
            _ => None,
        }
    }
}

/// A place in a BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct InBar {
    /// Which BAR.
    pub bar: BarIndex,
    /// Byte offset, a multiple of eight.
    pub offset: u32,
}
