//! The machine.

pub mod bus;
pub mod console;
pub mod event_loop;
pub mod installer;
pub mod pci_root;
pub mod requests;
pub mod signals;
pub mod stats;
pub mod terminal;
pub mod timers;
pub mod vm;
