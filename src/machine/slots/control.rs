//! What the operator asks of the slots over the control socket.

use pci::{Bdf, Bridge};

use super::contents::{Item, Kind, State};
use super::ports::Port;
use super::{Refusal, Slots};
use crate::config::{NetBackend, Together};
use crate::control::{Added, Code, Control, Listed, Listing, NewDevice, Refused, Removal};
use crate::host::{Host, HostDevice};

/// What an emulated card is sold as.
const NIC_NAME: &str = "Intel Corporation 82540EM Gigabit Ethernet Controller";

impl Control for Slots {
    fn add(&self, device: NewDevice) -> Result<Added, Refused> {
        let place = match device {
            NewDevice::Assign(functions) => {
                let together = Together::new(functions).map_err(Refusal::from)?;
                self.add_assigned(together)?
            }
            NewDevice::Net(spec) => {
                let own = || match &spec.backend {
                    NetBackend::Tap(name) => name.clone(),
                    NetBackend::User(_) => "user".to_owned(),
                };
                let id = spec.id.clone().unwrap_or_else(own);
                let net = spec.plugged_as(&id).map_err(Refused::invalid)?;
                self.add_nic(&net)?
            }
        };
        Ok(Added {
            id: place.id,
            port: place.port,
            guest: place.guest.map(|bdf| bdf.to_string()),
        })
    }

    fn remove(&self, id: &str, removal: &Removal) -> Result<(), Refused> {
        Ok(self.take_out(id, removal)?)
    }

    fn list(&self) -> Listing {
        let contents = self.contents();
        let mut devices = Vec::new();
        for (number, content) in contents.iter() {
            let Some(port) = self.ports.get(&number) else {
                continue;
            };
            let items = content.items.iter();
            devices.extend(items.map(|item| listed(item, number, port, content.state)));
        }
        let free = self
            .ports
            .keys()
            .filter(|port| contents.get(**port).is_none());
        Listing {
            devices,
            free_ports: free.copied().collect(),
        }
    }
}

/// What a device of the host's is called if the operator says nothing.
pub fn id_of(host: HostDevice) -> String {
    match host {
        HostDevice::Pci(address) => address.to_string(),
        HostDevice::Mediated(uuid) => uuid.to_string(),
    }
}

fn name_of(host: HostDevice) -> String {
    let function = host.pci().map(|at| Host::this_machine().function(at));
    match function {
        Some(Ok(Some(function))) => function.name(),
        _ => host.to_string(),
    }
}

fn listed(item: &Item, number: u8, port: &Port, state: State) -> Listed {
    let (kind, name, host) = match item.kind {
        Kind::Assigned { host, .. } => ("assigned", name_of(host), Some(id_of(host))),
        Kind::Nic => ("e1000", NIC_NAME.to_owned(), None),
    };
    let state = match state {
        State::Coming => "coming",
        State::Plugged => "plugged",
        State::Removing => "removing",
    };
    let guest = item.device.as_ref();
    let guest = guest.and_then(|_| guest_address(port, item.function));
    Listed {
        id: item.id.clone(),
        kind: kind.to_owned(),
        name,
        host,
        port: number,
        guest: guest.map(|bdf| bdf.to_string()),
        state: state.to_owned(),
    }
}

/// Where the guest finds a function behind a port, once it has numbered the port's bus.
pub(super) fn guest_address(port: &Port, function: u8) -> Option<Bdf> {
    let bus = Some(port.port.secondary()).filter(|&bus| bus != 0)?;
    Some(Bdf::new(bus, 0, function))
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::UnknownId(_) => Code::UnknownId,
            Refusal::IdTaken(_) => Code::IdTaken,
            Refusal::NoSuchPort { .. } | Refusal::PortTaken { .. } | Refusal::NoFreePort => {
                Code::NoPort
            }
            Refusal::Busy { .. } => Code::Busy,
            Refusal::Timeout { .. } => Code::Timeout,
            Refusal::NotTogether(_) => Code::Invalid,
            Refusal::Ending => Code::Unavailable,
            Refusal::Machine(_) => Code::NotPossible,
        };
        Self {
            code,
            message: crate::cli::one_line(&refusal),
        }
    }
}
