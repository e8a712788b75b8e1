//! Devices that come and go while the guest runs, by the rules of native PCI Express hot-plug
//! (PCIe 6.0 §6.7): what comes is shown in the slot's registers and answers once the guest has
//! given it power; before something goes the guest is asked by the attention button, and lets
//! go by taking the slot's power away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::e1000::{E1000, E1000Config};
use pci::{Bdf, InterruptPin};

use super::Slots;
use super::contents::{Content, Contents, Device, Item, State};
use super::control::guest_address;
use super::ports::Port;
use crate::config::{self, NotTogether, Together};
use crate::control::Removal;
use crate::machine::Error;
use crate::machine::nics;
use crate::machine::pci_root::PciRoot;
use crate::machine::timers::GuestClock;

/// Why a device did not come, or did not go.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such device.
    #[error("no device in a slot is called {0}; `sluice ctl SOCKET list` names them")]
    UnknownId(String),
    /// There is one already.
    #[error("a device is called {0} already; give this one another id=…")]
    IdTaken(String),
    /// The machine has no such port.
    #[error("the machine has no root port {port}; it has {}", list(.ports))]
    NoSuchPort {
        /// What was asked for.
        port: u8,
        /// What there is.
        ports: Vec<u8>,
    },
    /// There is something in its slot.
    #[error("root port {port} is taken, by {by}")]
    PortTaken {
        /// What was asked for.
        port: u8,
        /// Who is there.
        by: String,
    },
    /// Every slot is taken.
    #[error(
        "every root port is taken; remove a device, or start the machine with more \
         (--control …,ports=N)"
    )]
    NoFreePort,
    /// It is coming or going already.
    #[error("{id} is {what} already")]
    Busy {
        /// The device.
        id: String,
        /// What it is at.
        what: &'static str,
    },
    /// The guest did not let go.
    #[error(
        "the guest did not let go of {id} within {} s: its kernel may have no PCI Express \
         hot-plug, or be busy; try again, or take it away with --force",
        .patience.as_secs()
    )]
    Timeout {
        /// The device.
        id: String,
        /// How long it had.
        patience: Duration,
    },
    /// What was asked for together is no device.
    #[error(transparent)]
    NotTogether(#[from] NotTogether),
    /// The machine ends.
    #[error("the machine is ending")]
    Ending,
    /// It cannot be opened, or shown to the guest.
    #[error(transparent)]
    Machine(#[from] Error),
}

fn list(ports: &[u8]) -> String {
    match ports {
        [] => "none".to_owned(),
        ports => {
            let ports: Vec<_> = ports.iter().map(u8::to_string).collect();
            ports.join(", ")
        }
    }
}

/// Where a device went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// What its function 0 is called.
    pub id: String,
    /// The root port.
    pub port: u8,
    /// The address in the guest, if its bus has a number.
    pub guest: Option<Bdf>,
}

impl Slots {
    /// Takes a device of the host's, all its functions or none, and puts it into a slot, the
    /// first that is free if none is asked for. When this returns the guest has been told of it.
    pub fn add_assigned(&self, functions: Together) -> Result<Place, Refusal> {
        let mut contents = self.contents();
        let number = self.choose(&contents, &functions.ids(), functions.port())?;
        let wanted = functions.placed(number);
        contents.announce(number, wanted.iter().map(Item::assigned).collect());
        drop(contents);
        self.bring(number, || {
            let taken = self.assigner.take(&wanted)?;
            Ok(taken.into_iter().map(Device::Assigned).collect())
        })
    }

    /// Makes a network card and puts it into a slot.
    pub fn add_nic(&self, net: &config::Net) -> Result<Place, Refusal> {
        let mut contents = self.contents();
        let number = self.choose(&contents, std::slice::from_ref(&net.id), None)?;
        contents.announce(number, vec![Item::nic(&net.id)]);
        drop(contents);
        self.bring(number, || {
            let backend = nics::open(&net.backend)?;
            let device = self.port(number)?.bdf.device();
            let nic = E1000::new(E1000Config {
                name: net.id.clone(),
                mac: net.mac,
                backend,
                dma: self.fabric.dma(),
                line: self.fabric.wires.line(device, InterruptPin::IntA),
                deferred: self.fabric.deferred.clone(),
                clock: Arc::new(GuestClock),
                watcher: self.watcher.clone(),
            });
            let nic = Arc::new(nic.map_err(Error::Nic)?);
            nic.start().map_err(Error::Nic)?;
            Ok(vec![Device::Nic(nic)])
        })
    }

    /// Which slot functions of these names are to come into.
    fn choose(&self, contents: &Contents, ids: &[String], port: Option<u8>) -> Result<u8, Refusal> {
        if self.has_ended() {
            return Err(Refusal::Ending);
        }
        if let Some(id) = contents.taken_name(ids) {
            return Err(Refusal::IdTaken(id.clone()));
        }
        let Some(port) = port else {
            let mut ports = self.ports.keys();
            let free = ports.find(|port| contents.get(**port).is_none());
            return free.copied().ok_or(Refusal::NoFreePort);
        };
        self.port(port)?;
        match contents.get(port) {
            None => Ok(port),
            Some(content) => {
                let by = content.names();
                Err(Refusal::PortTaken { port, by })
            }
        }
    }

    /// Opens what was announced for a slot and puts it there.
    fn bring(
        &self,
        number: u8,
        open: impl FnOnce() -> Result<Vec<Device>, Refusal>,
    ) -> Result<Place, Refusal> {
        let plugged = open().and_then(|devices| self.plug(number, devices));
        if plugged.is_err() {
            self.contents().clear(number);
        }
        plugged
    }

    /// Puts the functions of a device on the bus behind a port, and then tells the guest.
    fn plug(&self, number: u8, devices: Vec<Device>) -> Result<Place, Refusal> {
        let port = match self.attach_to(number, &devices) {
            Ok(port) => port,
            Err(refusal) => {
                for device in devices {
                    self.close_device(device);
                }
                return Err(refusal);
            }
        };
        let mut id = String::new();
        if let Some(content) = self.contents().get_mut(number) {
            content.arrive(devices);
            if let Some(watch) = self.watch.get() {
                watch.follow(number, content);
            }
            id = content.id().to_owned();
        }
        port.port.insert();
        Ok(Place {
            id,
            port: number,
            guest: guest_address(port, 0),
        })
    }

    fn attach_to(&self, number: u8, devices: &[Device]) -> Result<&Port, Refusal> {
        let (root, port) = (self.root()?, self.port(number)?);
        let functions = self.contents().functions(number);
        let on_bus = devices.iter().map(Device::on_bus);
        let functions: Vec<_> = functions.into_iter().zip(on_bus).collect();
        let on_bus = root.plug(port.id, &functions).map_err(Error::from)?;
        for (device, id) in devices.iter().zip(on_bus) {
            if let Device::Assigned(taken) = device {
                self.wire_intx(&taken.device, |pin| root.root_interrupt(id, pin));
            }
        }
        Ok(port)
    }

    fn port(&self, number: u8) -> Result<&Port, Refusal> {
        self.ports.get(&number).ok_or_else(|| Refusal::NoSuchPort {
            port: number,
            ports: self.ports.keys().copied().collect(),
        })
    }

    fn root(&self) -> Result<Arc<PciRoot>, Refusal> {
        let root = self.root.get().and_then(std::sync::Weak::upgrade);
        root.ok_or(Refusal::Ending)
    }

    /// Takes what is in a slot out, with everything else that is a function of the same
    /// device. When this returns it is closed.
    pub fn take_out(&self, id: &str, removal: &Removal) -> Result<(), Refusal> {
        let number = self.begin_removal(id)?;
        let port = self.port(number)?;
        if !removal.force
            && let Err(refusal) = self.ask(id, port, removal.patience)
        {
            self.set_state(number, State::Plugged);
            return Err(refusal);
        }
        // What is torn out is gone for the guest at once; else it is shut off already.
        port.port.take_out();
        self.root()?.unplug(port.id);
        let devices = self.contents().get_mut(number).map(Content::leave);
        for device in devices.into_iter().flatten() {
            self.close_device(device);
        }
        self.contents().clear(number);
        Ok(())
    }

    fn begin_removal(&self, id: &str) -> Result<u8, Refusal> {
        let mut contents = self.contents();
        if self.has_ended() {
            return Err(Refusal::Ending);
        }
        let found = contents.find(id);
        let (number, content) = found.ok_or_else(|| Refusal::UnknownId(id.to_owned()))?;
        let what = match content.state {
            State::Plugged => {
                content.state = State::Removing;
                return Ok(number);
            }
            State::Coming => "being plugged in",
            State::Removing => "being removed",
        };
        let id = id.to_owned();
        Err(Refusal::Busy { id, what })
    }

    fn set_state(&self, number: u8, state: State) {
        if let Some(content) = self.contents().get_mut(number) {
            content.state = state;
        }
    }

    /// Asks the guest to let go, and waits until it has taken the slot's power away.
    fn ask(&self, id: &str, port: &Port, patience: Duration) -> Result<(), Refusal> {
        if port.port.has_power() {
            port.port.press_attention();
        }
        let deadline = Instant::now() + patience;
        let is_over = || !port.port.has_power() || self.has_ended();
        match self.power.wait_until(deadline, is_over) {
            _ if self.has_ended() => Err(Refusal::Ending),
            true => Ok(()),
            false => Err(Refusal::Timeout {
                id: id.to_owned(),
                patience,
            }),
        }
    }

    fn close_device(&self, device: Device) {
        match device {
            Device::Assigned(taken) => self.assigner.give_back(vec![taken]),
            Device::Nic(nic) => nic.stop(),
        }
    }
}
