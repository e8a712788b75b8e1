//! Network cards: e1000s on TAPs and on user-mode networking.

use std::sync::Arc;

use devices::bus::{FastPathWatcher, PciDevice};
use devices::e1000::{E1000, E1000Config};
use devices::net::{Mac, NetBackend, Passt, PasstConfig, Tap};
use pci::{BusAt, InterruptPin, Topology};

use super::Error;
use super::fabric::Fabric;
use super::slots::FIRST_PORT_DEVICE;
use super::timers::GuestClock;
use crate::config;

/// The first card's device number on the root bus; the others follow.
const FIRST_DEVICE: u8 = 2;
const _: () = assert!(FIRST_DEVICE as usize + config::MAX_NETS <= FIRST_PORT_DEVICE as usize);

/// What the cards are plugged into, opened.
pub struct Wires(Vec<(Mac, Box<dyn NetBackend>)>);

impl Wires {
    /// Opens the TAPs and starts `passt` where it is wanted.
    pub fn open(nets: &[config::Net]) -> Result<Self, Error> {
        nets.iter()
            .map(|net| Ok((net.mac, open(&net.backend)?)))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Opens what a card is plugged into.
pub fn open(backend: &config::NetBackend) -> Result<Box<dyn NetBackend>, Error> {
    Ok(match backend {
        config::NetBackend::Tap(name) => Box::new(Tap::open(name).map_err(Error::Tap)?),
        config::NetBackend::User(forwards) => {
            let config = PasstConfig {
                forwards: forwards.clone(),
                ..PasstConfig::default()
            };
            Box::new(Passt::start(&config).map_err(Error::Passt)?)
        }
    })
}

/// The cards, moving packets until dropped.
pub struct Nics(Vec<Arc<E1000>>);

impl Nics {
    /// Makes the cards and puts them on the bus.
    pub fn attach(
        wires: Wires,
        fabric: &Fabric,
        watcher: &Arc<dyn FastPathWatcher>,
        topology: &mut Topology<dyn PciDevice>,
    ) -> Result<Self, Error> {
        let mut nics = Vec::new();
        for ((mac, backend), device) in wires.0.into_iter().zip(FIRST_DEVICE..) {
            let name = format!("e1000-{}", device - FIRST_DEVICE);
            let nic = Arc::new(
                E1000::new(E1000Config {
                    name: name.clone(),
                    mac,
                    backend,
                    dma: fabric.dma(),
                    line: fabric.wires.line(device, InterruptPin::IntA),
                    deferred: fabric.deferred.clone(),
                    clock: Arc::new(GuestClock),
                    watcher: watcher.clone(),
                })
                .map_err(Error::Nic)?,
            );
            topology.attach(BusAt::Root, device, 0, &name, nic.clone() as _)?;
            nic.start().map_err(Error::Nic)?;
            nics.push(nic);
        }
        Ok(Self(nics))
    }
}

impl Drop for Nics {
    fn drop(&mut self) {
        self.0.iter().for_each(|nic| nic.stop());
    }
}
