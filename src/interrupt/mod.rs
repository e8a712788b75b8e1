//! Interrupts on their way to the LAPICs, which are KVM's: messages of emulated devices,
//! messages of assigned ones that never pass through this process, IOAPIC pins with the
//! levels of assigned devices, and the 8259 pair.

mod controllers;
mod levels;
mod routes;
mod routing;
mod watch;

pub use controllers::{Controllers, IOAPIC_REQUESTER, Surroundings};
pub use levels::Levels;
pub use routes::{KvmRoutes, Routes};
pub use routing::{IOAPIC_PINS, KvmMsi, Routing, Usage};
