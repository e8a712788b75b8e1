//! Devices of the host in the hands of the machine: opened, with the guest's memory mapped for
//! them, taken, and given back.

mod interface;
mod kvm_vfio;
mod open;
mod peers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use devices::bus::PciDevice;
use devices::irq::MsiRoutes;
use devices::vfio::{AssignError, AssignedDevice, KernelDevice, ResetSet};

use super::Error;
use super::fabric::Fabric;
use super::vm::Vm;
use crate::config;
use crate::host::Host;

pub use interface::OtherInterface;
use open::HostSide;
pub use peers::Peers;

/// How long a vCPU may take to be done with a device that it no longer finds.
const LAST_ACCESS: Duration = Duration::from_secs(5);

/// A device of the host that the machine has.
pub struct Taken {
    /// The device.
    pub device: Arc<AssignedDevice>,
    /// To see when it is closed.
    kernel: Weak<KernelDevice>,
}

/// Takes devices of the host, and gives them back.
///
/// A device is reset first when it is given back, so that no memory is unmapped from under its
/// DMA. With the last one memory is unmapped, while that one still holds the host's IOMMU; then
/// it is closed.
pub struct Assigner {
    side: Mutex<Side>,
    resets: ResetSet,
    routes: Arc<dyn MsiRoutes>,
    peers: Arc<Peers>,
}

struct Side {
    host: HostSide,
    /// Devices that are open.
    open: usize,
}

impl Assigner {
    /// Nothing of the host's is opened yet.
    pub fn new(vm: &Vm, fabric: &Fabric) -> Self {
        Self {
            side: Mutex::new(Side {
                host: HostSide::new(vm, fabric.ram.clone(), fabric.pages),
                open: 0,
            }),
            resets: ResetSet::new(),
            routes: fabric.routes.clone(),
            peers: fabric.peers.clone(),
        }
    }

    fn side(&self) -> MutexGuard<'_, Side> {
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes devices, all or none. They reach the guest's memory then.
    pub fn take(&self, wanted: &[config::Assign]) -> Result<Vec<Taken>, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut side = self.side();
        let opened = side.host.open(wanted)?;
        match self.make(wanted, &opened) {
            Ok(taken) => {
                side.open += taken.len();
                self.tell_peers(&side);
                Ok(taken)
            }
            Err(error) => {
                if side.open == 0 {
                    side.host.left();
                }
                Err(error)
            }
        }
    }

    /// Devices reach each other's memory as long as there are several.
    fn tell_peers(&self, side: &Side) {
        if let Some(mapper) = side.host.mapper() {
            self.peers.set_devices(&mapper, side.open);
        }
    }

    fn make(
        &self,
        wanted: &[config::Assign],
        opened: &[Arc<KernelDevice>],
    ) -> Result<Vec<Taken>, Error> {
        let enter = |(assign, kernel): (&config::Assign, &Arc<KernelDevice>)| {
            let device = assign.device;
            self.resets
                .enter(&device.to_string(), device.pci(), kernel.clone())
        };
        // All of them before the first is taken and reset.
        let seats: Vec<_> = wanted.iter().zip(opened).map(enter).collect();
        let take = |((seat, assign), kernel): ((_, &config::Assign), &Arc<KernelDevice>)| {
            let taken = AssignedDevice::new(seat, self.routes.clone(), &assign.presentation);
            let device = taken.map_err(|error| AssignError {
                name: Host::this_machine().describe(assign.device),
                ..error
            })?;
            let kernel = Arc::downgrade(kernel);
            Ok(Taken { device, kernel })
        };
        seats
            .into_iter()
            .zip(wanted)
            .zip(opened)
            .map(take)
            .collect()
    }

    /// Unmaps the guest's memory. For the end of the machine, when all devices are released.
    pub fn end(&self) {
        self.peers.forget();
        self.side().host.left();
    }

    /// Gives devices back, which the guest must not find any more. They are closed when this
    /// returns; if one is not, which would be a bug here, the log says so.
    pub fn give_back(&self, taken: Vec<Taken>) {
        taken.iter().for_each(|taken| taken.device.release());
        let mut side = self.side();
        side.open = side.open.saturating_sub(taken.len());
        self.tell_peers(&side);
        if side.open == 0 {
            side.host.left();
        }
        for Taken { device, kernel } in taken {
            let name = device.name().to_owned();
            drop(device);
            if !is_gone(&kernel) {
                tracing::error!(device = name, "the device is still held after its removal");
            }
        }
    }
}

fn is_gone<T>(weak: &Weak<T>) -> bool {
    let deadline = Instant::now() + LAST_ACCESS;
    while weak.strong_count() > 0 {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
