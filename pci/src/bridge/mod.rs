//! What routing needs to know of a PCI-to-PCI bridge (PCI-to-PCI Bridge 1.2 §3.2.5).

mod errors;
mod root_port;
mod slot;
mod type1;

pub use root_port::{PortWires, RootPort, RootPortConfig, RootPortState};
pub use type1::PciBridge;

/// An inclusive range of addresses that a bridge passes downstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Forwarded {
    /// Ports or memory.
    pub space: crate::Space,
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
}

/// A function that has a bus behind it.
pub trait Bridge {
    /// Secondary bus number: the bus right behind the bridge; 0 when not yet numbered.
    fn secondary(&self) -> u8;

    /// Subordinate bus number: the highest bus behind the bridge.
    fn subordinate(&self) -> u8;

    /// The ranges the bridge forwards downstream now (I/O, memory, prefetchable memory),
    /// none whose enable is off or whose limit lies below its base.
    fn forwarded(&self) -> Vec<Forwarded>;

    /// What is behind is a link with one device at its end: no other device number answers
    /// (PCIe 6.0 §7.3.1).
    fn is_link(&self) -> bool {
        false
    }

    /// ARI Forwarding Enable of a link's port: device numbers are part of the function
    /// number, so all of them answer (§6.13).
    fn forwards_ari(&self) -> bool {
        false
    }

    /// Nothing behind answers: the bus is held in reset (Secondary Bus Reset), or the link to
    /// it is down.
    fn is_shut(&self) -> bool {
        false
    }
}
