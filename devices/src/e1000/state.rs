//! The device's state as data.

use pci::ConfigSpaceState;
use serde::{Serialize, Serializer};

use super::device::Registers;
use super::registers::Cause;

/// Everything there is to know of an [`super::E1000`].
#[derive(Clone, Serialize)]
pub struct E1000State {
    /// Config space.
    pub config: ConfigSpaceState,
    /// Registers, tables, EEPROM and PHY.
    pub registers: Registers,
    /// What it did.
    pub traffic: Traffic,
}

/// What a NIC did since it was made. A reset does not clear it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Packets given to the guest.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Packets the guest's filters did not want, or that were too long for it.
    pub unwanted: u64,
    /// Packets taken from the guest; one that is segmented counts once.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Packets of the guest's that made no sense or could not be read.
    pub malformed: u64,
    /// Writes to the transmit tail.
    pub doorbells: u64,
    /// Those that had to wake the I/O thread.
    pub wakeups: u64,
    /// Times the interrupt wire was asserted.
    pub interrupts: u64,
}

pub(super) fn boxed<const N: usize, S: Serializer>(
    value: &[u32; N],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(value)
}

pub(super) fn words<const N: usize, S: Serializer>(
    value: &[u16; N],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(value)
}

pub(super) fn bits<S: Serializer>(value: &Cause, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(value.bits())
}
