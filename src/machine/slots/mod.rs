//! The slots of the root ports: what is in them from the start, what comes later ([`plug`]),
//! and what the host has to say of it meanwhile ([`watch`]).

mod contents;
mod control;
mod plug;
mod ports;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use devices::bus::{FastPathWatcher, PciDevice};
use devices::vfio::AssignedDevice;
use pci::{BusAt, InterruptPin, Topology};

use super::Error;
use super::assigned::Assigner;
use super::fabric::Fabric;
use super::pci_root::PciRoot;
use super::vm::Vm;
use crate::config;

use contents::{Contents, Device, Item};
use plug::Refusal;
pub use ports::FIRST_PORT_DEVICE;
use ports::{Port, PowerEvents};
use watch::Watch;

/// The slots of a machine.
pub struct Slots {
    ports: BTreeMap<u8, Port>,
    power: Arc<PowerEvents>,
    fabric: Arc<Fabric>,
    watcher: Arc<dyn FastPathWatcher>,
    assigner: Assigner,
    root: OnceLock<Weak<PciRoot>>,
    watch: OnceLock<Watch>,
    contents: Mutex<Contents>,
    /// The machine ends: nothing comes or goes any more.
    ended: AtomicBool,
}

/// What a machine's slots are made from.
pub struct Parts<'a> {
    /// Devices that are there from the start.
    pub assigns: &'a [config::Assign],
    /// How many empty slots there are beside.
    pub spare: u8,
    /// The VM.
    pub vm: &'a Vm,
    /// What devices are connected to.
    pub fabric: &'a Arc<Fabric>,
    /// Told when what a guest may reach directly changes.
    pub watcher: &'a Arc<dyn FastPathWatcher>,
}

impl Slots {
    /// Makes the root ports, takes the devices that are there from the start, and puts each
    /// behind its port.
    pub fn attach(
        parts: Parts<'_>,
        topology: &mut Topology<dyn PciDevice>,
    ) -> Result<Arc<Self>, Error> {
        let used: Vec<u8> = parts.assigns.iter().map(|assign| assign.port).collect();
        let power = Arc::new(PowerEvents::default());
        let needed = ports::needed(&used, parts.spare);
        let slots = Arc::new(Self {
            ports: ports::attach(&needed, &used, parts.fabric, &power, topology)?,
            power,
            fabric: parts.fabric.clone(),
            watcher: parts.watcher.clone(),
            assigner: Assigner::new(parts.vm, parts.fabric),
            root: OnceLock::new(),
            watch: OnceLock::new(),
            contents: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        slots.fill(parts.assigns, topology)?;
        Ok(slots)
    }

    fn fill(
        &self,
        assigns: &[config::Assign],
        topology: &mut Topology<dyn PciDevice>,
    ) -> Result<(), Error> {
        let taken = self.assigner.take(assigns)?;
        let mut contents = self.contents();
        let devices: Vec<_> = taken.iter().map(|taken| taken.device.clone()).collect();
        for (assign, taken) in assigns.iter().zip(taken) {
            let device = Some(Device::Assigned(taken));
            let item = Item::assigned(assign);
            contents.add(assign.port, Item { device, ..item });
        }
        drop(contents);
        for (assign, device) in assigns.iter().zip(devices) {
            let Some(port) = self.ports.get(&assign.port) else {
                continue;
            };
            let (at, name) = (BusAt::Behind(port.id), device.name());
            let id = topology.attach(at, 0, assign.function, name, device.clone() as _)?;
            self.wire_intx(&device, |pin| topology.root_interrupt(id, pin));
        }
        Ok(())
    }

    /// Solders the device's interrupt pin, if it has one, to the input that it comes out at.
    fn wire_intx(
        &self,
        device: &AssignedDevice,
        comes_out: impl FnOnce(InterruptPin) -> Option<(u8, InterruptPin)>,
    ) {
        if let Some((slot, pin)) = device.interrupt_pin().and_then(comes_out) {
            device.wire_intx(self.fabric.levels.input(slot, pin));
        }
    }

    /// From now on devices come and go, and the host is listened to.
    pub fn open(self: &Arc<Self>, root: &Arc<PciRoot>) -> Result<(), Error> {
        let _ = self.root.set(Arc::downgrade(root));
        let watch = Watch::start(Arc::downgrade(self)).map_err(Error::Thread)?;
        for (port, content) in self.contents().iter() {
            watch.follow(port, content);
        }
        let _ = self.watch.set(watch);
        Ok(())
    }

    /// Nothing comes or goes any more, and whoever waits for it is told so.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.power.note();
    }

    /// Silences all devices, which do not reach the guest's memory then. The guest must not run
    /// any more, and nobody be in the middle of an addition or a removal.
    pub fn close(&self) {
        self.end();
        if let Some(watch) = self.watch.get() {
            watch.end();
        }
        let contents = self.contents();
        let items = contents.iter().flat_map(|(_, content)| &content.items);
        for device in items.filter_map(|item| item.device.as_ref()) {
            match device {
                Device::Assigned(taken) => taken.device.release(),
                Device::Nic(nic) => nic.stop(),
            }
        }
        self.assigner.end();
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.close();
    }
}
