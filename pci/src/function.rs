//! What every thing with a config space is to the bus.

use crate::{ConfigWrite, Register};

bitflags::bitflags! {
    /// What a config write changed, beyond the bytes. The owner of the bus looks again at
    /// what it names and applies the difference.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Changes: u16 {
        /// Decoded windows: a BAR, a bridge window, the ROM, or the I/O and memory enables.
        const DECODE = 1 << 0;
        /// Bus numbers of a bridge: what lies behind it has new addresses.
        const BUS_NUMBERS = 1 << 1;
        /// INTx disable, or the MSI or MSI-X enables and masks.
        const INTERRUPTS = 1 << 2;
        /// Bus master enable.
        const BUS_MASTER = 1 << 3;
        /// Power state.
        const POWER = 1 << 4;
        /// The host bridge's ECAM base (PCIEXBAR) moved.
        const ECAM = 1 << 5;
        /// INTx routing of the chipset (PIRQ registers).
        const ROUTING = 1 << 6;
        /// A bridge resets what is behind it (Secondary Bus Reset set).
        const SECONDARY_RESET = 1 << 7;
        /// A chipset window other than a BAR (PMBASE, RCBA and the like).
        const CHIPSET = 1 << 8;
        /// Slot control: power, indicators, hot-plug interrupts.
        const SLOT = 1 << 9;
        /// The function resets itself: a function-level reset, or D3hot to D0 without
        /// No_Soft_Reset. Its config space is reset already; the device resets the rest.
        const FUNCTION_RESET = 1 << 10;
    }
}

/// Which of a function's windows: BARs are 0 to 5 and the expansion ROM is 6
/// ([`BarIndex::ROM`]). The upper half of a 64-bit BAR has no index of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
pub struct BarIndex(pub u8);

impl BarIndex {
    /// The expansion ROM.
    pub const ROM: Self = Self(6);
}

/// An address space that a window lies in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
pub enum Space {
    /// Port I/O.
    Io,
    /// Memory.
    Memory,
}

/// A range that a function answers now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
pub struct Window {
    /// Which BAR.
    pub bar: BarIndex,
    /// Ports or memory.
    pub space: Space,
    /// First address, in the guest's physical or port address space.
    pub base: u64,
    /// Length in bytes, never zero.
    pub size: u64,
}

/// A PCI function, seen from the bus. Config accesses may come from any vCPU at any time;
/// an implementation locks for itself.
pub trait Function: Send + Sync {
    /// Reads a dword. Registers that are not there read as the function defines (zero
    /// within the function, never a panic).
    fn read_config(&self, register: Register) -> u32;

    /// Writes the enabled bytes of a dword and says what that changed.
    fn write_config(&self, write: ConfigWrite) -> Changes;

    /// The BAR windows that the function decodes now: enabled in the command register,
    /// in D0, and with a base that was programmed. Addresses are the guest's own; whether
    /// they make sense is for the caller to judge.
    fn windows(&self) -> Vec<Window>;

    /// Conventional reset (PCIe 6.0 §6.6.1): config space and state as at power-on.
    fn reset(&self);

    /// The bridge behind this function, if it is one.
    fn as_bridge(&self) -> Option<&dyn crate::Bridge> {
        None
    }
}
