//! Message signalled interrupts on the wire (PCIe 6.0 §6.1.4).

/// A memory write that is an interrupt: where it goes and what it says. Opaque to a
/// function; on x86 the address holds the destination and the data the vector, or both
/// name an interrupt-remapping table entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize)]
pub struct MsiMessage {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}
