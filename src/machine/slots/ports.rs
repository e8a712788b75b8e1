//! Root ports: where they are, and how they are wired.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use devices::bus::PciDevice;
use devices::dma::Dma;
use devices::irq::IrqLine;
use pci::{
    Bdf, BusAt, FunctionId, InterruptPin, MsiMessage, PortWires, RootPort, RootPortConfig, Topology,
};

use crate::config;
use crate::machine::Error;
use crate::machine::fabric::Fabric;

/// Root port *n* (from 1) is a function of the devices from this number on, eight to a
/// device.
pub const FIRST_PORT_DEVICE: u8 = 0x10;
const FUNCTIONS: u8 = 8;

/// A root port with a hot-plug slot.
pub struct Port {
    /// The port.
    pub port: Arc<RootPort>,
    /// Which function of the hierarchy it is.
    pub id: FunctionId,
    /// Where it is, always: the root bus has one number.
    pub bdf: Bdf,
}

/// Which ports there are when these are used and this many more are wanted: a guest looks at
/// functions 1 to 7 of a device only if there is a function 0, so that one is there too.
pub fn needed(used: &[u8], spare: u8) -> Vec<u8> {
    let mut ports = used.to_vec();
    let free = (1..=config::MAX_PORT).filter(|port| !used.contains(port));
    ports.extend(free.take(spare.into()));
    let firsts: Vec<_> = ports.iter().map(|port| first_of(*port)).collect();
    ports.extend(firsts);
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn first_of(port: u8) -> u8 {
    port - (port - 1) % FUNCTIONS
}

/// Where a port is.
fn place(port: u8) -> Bdf {
    let index = port.saturating_sub(1);
    Bdf::new(0, FIRST_PORT_DEVICE + index / FUNCTIONS, index % FUNCTIONS)
}

/// Puts ports on the root bus; in those of `occupied` is something from the start.
pub fn attach(
    ports: &[u8],
    occupied: &[u8],
    fabric: &Fabric,
    power: &Arc<PowerEvents>,
    topology: &mut Topology<dyn PciDevice>,
) -> Result<BTreeMap<u8, Port>, Error> {
    let attach = |&number: &u8| {
        let config = match occupied.contains(&number) {
            true => RootPortConfig::occupied(number.into()),
            false => RootPortConfig::empty(number.into()),
        };
        let port = Arc::new(RootPort::new(config.hot_plug())?);
        let bdf = place(number);
        port.wire(Arc::new(Wiring::new(bdf, fabric, power.clone())));
        let name = format!("root port {number}");
        let (device, function) = (bdf.device(), bdf.function());
        let id = topology.attach(BusAt::Root, device, function, &name, port.clone() as _)?;
        Ok((number, Port { port, id, bdf }))
    };
    ports.iter().map(attach).collect()
}

/// What a port is wired to.
struct Wiring {
    messages: Dma,
    line: IrqLine,
    power: Arc<PowerEvents>,
}

impl Wiring {
    fn new(port: Bdf, fabric: &Fabric, power: Arc<PowerEvents>) -> Self {
        let messages = fabric.dma();
        messages.set_bdf(port);
        // The port sends only while it is a bus master.
        messages.set_bus_master(true);
        Self {
            messages,
            line: fabric.wires.line(port.device(), InterruptPin::IntA),
            power,
        }
    }
}

impl PortWires for Wiring {
    fn send(&self, message: MsiMessage) {
        self.messages.send_msi(message);
    }

    fn set_pin(&self, asserted: bool) {
        self.line.set(asserted);
    }

    fn power_switched(&self, _: bool) {
        self.power.note();
    }
}

/// That the guest switched the power of a slot, whichever.
#[derive(Default)]
pub struct PowerEvents {
    count: Mutex<u64>,
    noted: Condvar,
}

impl PowerEvents {
    /// Something was switched, or whoever waits should look again.
    pub fn note(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.noted.notify_all();
    }

    /// Waits until `is_so`, which may take locks that are held by who notes; false if that did
    /// not come in time.
    pub fn wait_until(&self, deadline: Instant, is_so: impl Fn() -> bool) -> bool {
        loop {
            let seen = *self.count.lock().unwrap_or_else(PoisonError::into_inner);
            if is_so() {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self
                .noted
                .wait_timeout_while(count, left, |count| *count == seen);
            drop(waited);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn ports_are_functions_and_each_device_has_a_function_zero() {
        let places = |used: &[u8], spare| -> Vec<String> {
            let ports = needed(used, spare);
            ports.iter().map(|port| place(*port).to_string()).collect()
        };
        assert_eq!(places(&[], 0), [""; 0]);
        assert_eq!(places(&[1, 2], 0), ["00:10.0", "00:10.1"]);
        assert_eq!(places(&[3], 0), ["00:10.0", "00:10.2"]);
        let far = ["00:10.0", "00:10.7", "00:11.0", "00:13.0", "00:13.7"];
        assert_eq!(places(&[8, 9, 32], 0), far);
        assert_eq!(needed(&[1, 3], 2), [1, 2, 3, 4]);
        assert_eq!(needed(&[1], 200).len(), usize::from(config::MAX_PORT));
    }

    #[test]
    fn whoever_waits_sees_what_was_noted_and_no_more_than_that() {
        let events = Arc::new(PowerEvents::default());
        let done = Arc::new(AtomicBool::new(false));
        let soon = || Instant::now() + Duration::from_millis(20);
        assert!(!events.wait_until(soon(), || false));
        let (other, flag) = (events.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            other.note();
            flag.store(true, Ordering::SeqCst);
            other.note();
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        assert!(events.wait_until(deadline, || done.load(Ordering::SeqCst)));
        thread.join().unwrap();
    }
}
