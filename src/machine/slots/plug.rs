//! Devices that come and go while the guest runs, by the rules of native PCI Express hot-plug
//! (PCIe 6.0 §6.7): what comes is shown in the slot's registers and answers once the guest has
//! given it power; before something goes the guest is asked by the attention button, and lets
//! go by taking the slot's power away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::e1000::{E1000, E1000Config};
use pci::{Bdf, InterruptPin};

use super::control::guest_address;
use super::ports::Port;
use super::{Content, Device, Item, Slots, State};
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
        self.add(functions.ids(), functions.port(), |port| {
            let wanted = functions.placed(port);
            let taken = self.assigner.take(&wanted)?;
            let items = wanted.iter().zip(taken);
            Ok(items.map(|(w, taken)| Item::assigned(w, taken)).collect())
        })
    }

    /// Makes a network card and puts it into a slot.
    pub fn add_nic(&self, net: &config::Net) -> Result<Place, Refusal> {
        self.add(vec![net.id.clone()], None, |number| {
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
            Ok(vec![Item {
                id: net.id.clone(),
                function: 0,
                device: Device::Nic(nic),
            }])
        })
    }

    fn add(
        &self,
        ids: Vec<String>,
        port: Option<u8>,
        make: impl FnOnce(u8) -> Result<Vec<Item>, Refusal>,
    ) -> Result<Place, Refusal> {
        let number = self.reserve(&ids, port)?;
        let plugged = make(number).and_then(|items| self.plug(ids, number, items));
        if plugged.is_err() {
            self.contents().remove(&number);
        }
        plugged
    }

    /// Puts the functions of a device on the bus behind a port, and then tells the guest.
    fn plug(&self, ids: Vec<String>, number: u8, items: Vec<Item>) -> Result<Place, Refusal> {
        let port = match self.attach_to(number, &items) {
            Ok(port) => port,
            Err(refusal) => {
                for item in items {
                    self.close_device(item.device);
                }
                return Err(refusal);
            }
        };
        let id = items.first().map(|item| item.id.clone());
        let content = Content {
            ids,
            items,
            state: State::Plugged,
        };
        if let Some(watch) = self.watch.get() {
            watch.follow(number, &content);
        }
        self.contents().insert(number, content);
        port.port.insert();
        Ok(Place {
            id: id.unwrap_or_default(),
            port: number,
            guest: guest_address(port, 0),
        })
    }

    fn attach_to(&self, number: u8, items: &[Item]) -> Result<&Port, Refusal> {
        let (root, port) = (self.root()?, self.port(number)?);
        let functions = items
            .iter()
            .map(|item| (item.function, item.device.on_bus()));
        let functions: Vec<_> = functions.collect();
        let on_bus = root.plug(port.id, &functions).map_err(Error::from)?;
        for (item, id) in items.iter().zip(on_bus) {
            if let Device::Assigned { taken, .. } = &item.device {
                self.wire_intx(&taken.device, |pin| root.root_interrupt(id, pin));
            }
        }
        Ok(port)
    }

    /// Keeps a slot for what is being opened.
    fn reserve(&self, ids: &[String], port: Option<u8>) -> Result<u8, Refusal> {
        let mut contents = self.contents();
        if self.has_ended() {
            return Err(Refusal::Ending);
        }
        let taken = |(index, id): &(usize, &String)| {
            ids[..*index].contains(id) || contents.values().any(|content| content.ids.contains(id))
        };
        if let Some((_, id)) = ids.iter().enumerate().find(taken) {
            return Err(Refusal::IdTaken(id.clone()));
        }
        let number = match port {
            None => *self
                .ports
                .keys()
                .find(|port| !contents.contains_key(port))
                .ok_or(Refusal::NoFreePort)?,
            Some(port) => {
                self.port(port)?;
                if let Some(content) = contents.get(&port) {
                    let by = content.ids.join(" and ");
                    return Err(Refusal::PortTaken { port, by });
                }
                port
            }
        };
        let coming = Content {
            ids: ids.to_vec(),
            items: Vec::new(),
            state: State::Coming,
        };
        contents.insert(number, coming);
        Ok(number)
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
        let content = self.contents().get_mut(&number).map(Content::empty);
        for item in content.into_iter().flatten() {
            self.close_device(item.device);
        }
        self.contents().remove(&number);
        Ok(())
    }

    fn begin_removal(&self, id: &str) -> Result<u8, Refusal> {
        let mut contents = self.contents();
        if self.has_ended() {
            return Err(Refusal::Ending);
        }
        let found = contents
            .iter_mut()
            .find(|(_, content)| content.ids.iter().any(|own| own == id));
        let (number, content) = found.ok_or_else(|| Refusal::UnknownId(id.to_owned()))?;
        let what = match content.state {
            State::Plugged => {
                content.state = State::Removing;
                return Ok(*number);
            }
            State::Coming => "being plugged in",
            State::Removing => "being removed",
        };
        let id = id.to_owned();
        Err(Refusal::Busy { id, what })
    }

    fn set_state(&self, number: u8, state: State) {
        if let Some(content) = self.contents().get_mut(&number) {
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
            Device::Assigned { taken, .. } => self.assigner.give_back(vec![taken]),
            Device::Nic(nic) => nic.stop(),
        }
    }
}

impl Content {
    /// Takes everything out.
    fn empty(&mut self) -> Vec<Item> {
        std::mem::take(&mut self.items)
    }
}
