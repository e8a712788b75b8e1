//! The machine: what the operator asked for, put together and run.
//!
//! `build` makes and wires everything (`chipset`, `pci_root`, and the devices: `drives`,
//! `nics`, and what is in `slots`, for which `assigned` opens the host's), with a `vtd` between
//! them and memory if the guest is to have one; `lifecycle` is its life. On the exit path are
//! [`bus`] (who answers at an address) and what `installer` told KVM; everything else happens on
//! the main thread, in `event_loop`, or, for what comes and goes in slots, on threads of theirs.

mod assigned;
mod build;
pub mod bus;
mod chipset;
mod console;
mod drives;
mod error;
mod event_loop;
mod fabric;
mod installer;
mod lent;
mod lifecycle;
mod nics;
mod pci_root;
mod requests;
mod signals;
mod slots;
mod stats;
mod terminal;
mod timers;
mod vm;
mod vtd;

use std::sync::Arc;

use devices::dma::GuestRam;

pub use error::Error;
pub use lifecycle::Outcome;

use crate::memory::Layout;
use crate::vcpu::{Gate, PowerOn, Shared, Vcpu};
use crate::{acpi, boot, config};

/// A machine. Fields are dropped in this order, which matters: nothing may reach the guest
/// once its memory goes.
pub struct Machine {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    requests: Arc<requests::Requests>,
    alarms: Arc<timers::Alarms>,
    fast_paths: Arc<pci_root::FastPathChanges>,
    root: Arc<pci_root::PciRoot>,
    _nics: nics::Nics,
    _drives: Option<drives::Drives>,
    slots: Arc<slots::Slots>,
    control: Option<crate::control::Server>,
    vtd: Option<vtd::Unit>,
    chipset: Arc<chipset::Chipset>,
    console: console::Console,
    reporter: stats::Reporter,
    vcpus: Vec<(Arc<Vcpu>, PowerOn)>,
    images: boot::Images,
    cmdline: String,
    tables: acpi::Tables,
    layout: Layout,
    no_reboot: bool,
    _vm: vm::Vm,
    ram: Arc<GuestRam>,
}

/// Runs the machine that `config` describes until it ends.
pub fn run(config: &config::Machine) -> Result<Outcome, Error> {
    crate::vcpu::install_handler().map_err(Error::Signals)?;
    let signals = signals::Signals::block().map_err(Error::Signals)?;
    let (config, lease) = lent::lend(config, &signals)?;
    let outcome = Machine::build(&config).and_then(|mut machine| machine.run(&signals));
    // Only now is the machine gone, and what it was lent is closed.
    drop(lease);
    outcome
}

impl Drop for Machine {
    /// Nothing of a device is left in the guest's address spaces when it goes.
    fn drop(&mut self) {
        // Nobody is in the middle of plugging when the devices go.
        self.slots.end();
        self.control = None;
        self.root.close();
        self.slots.close();
    }
}

impl Machine {
    /// Puts tables and kernel into memory.
    fn load(&self) -> Result<boot::Entry, Error> {
        self.tables.write(&self.ram)?;
        let rsdp = acpi::Tables::RSDP;
        Ok(boot::load(
            &self.images,
            &self.cmdline,
            &self.ram,
            &self.layout,
            rsdp,
        )?)
    }
}
