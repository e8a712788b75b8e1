//! PCI functions of the host, assigned to the guest through VFIO.
//!
//! Split by concern:
//! - [`backend`]: what is asked of the kernel, and `kernel`, which asks it;
//! - `config`: what the guest sees of the config space, `capabilities` and `patch` under it;
//!   `rules` says which capabilities a guest has and `resizable` models one of them;
//! - `rom`: the option ROM;
//! - `presentation`: what the operator may say about all that;
//! - `bars`: which parts of the BARs are mapped and which trapped;
//! - `quirks`: doors in the BARs of particular devices;
//! - `interrupts`: which kind of interrupts the device uses; `intx`; and `vectors`, from the
//!   device's vectors to routes, with `msi` and `msix` on top;
//! - `events`: errors, and the host's wish to have the device back;
//! - `reset`: when and how the device is reset, alone or with what shares its bus;
//! - `device`: [`AssignedDevice`], which is all of it.

pub mod backend;
mod bars;
mod capabilities;
mod config;
mod device;
mod events;
#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
mod fake;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod interrupts;
mod intx;
mod kernel;
mod msi;
mod msix;
mod patch;
mod presentation;
mod quirks;
mod reset;
mod resizable;
mod rom;
mod rules;
#[cfg(test)]
mod tests;
mod vectors;

pub use config::ConfigError;
pub use device::{AssignError, AssignedDevice, AssignedDeviceState, RequesterWatcher};
pub use intx::IntxState;
pub use kernel::{Candidate, Hypervisor, KernelDevice, OpenError};
pub use presentation::{Presentation, RomSource};
pub use quirks::clique::{Clique, NoClique};
pub use reset::{Reset, ResetSet, Seat, Standing};
pub use rom::{Flaw, RomError};
pub use rules::{CapabilityName, UnknownCapability};
pub use vectors::VectorsState;
