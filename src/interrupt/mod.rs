//! Interrupts on their way to the LAPICs, which are KVM's: messages of emulated devices,
//! messages of assigned ones that never pass through this process, IOAPIC pins, and the
//! 8259 pair.

mod controllers;
mod routing;

pub use controllers::{Controllers, IOAPIC_REQUESTER, Surroundings};
pub use routing::{IOAPIC_PINS, KvmMsi, KvmRoutes, Routing};
