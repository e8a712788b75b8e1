//! Devices of the host in the hands of the machine: opened, with the guest's memory mapped for
//! them, taken, and given back.

mod interface;
mod kvm_vfio;
mod open;
mod peers;
mod shadows;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use devices::bus::PciDevice;
use devices::irq::MsiRoutes;
use devices::vfio::{AssignError, AssignedDevice, KernelDevice, RequesterWatcher, ResetSet};

use super::Error;
use super::fabric::Fabric;
use super::vm::Vm;
use crate::config;
use crate::host::Host;

pub use interface::OtherInterface;
use open::{HostSide, Opened};
pub use peers::Peers;
use shadows::Member;
pub use shadows::{Behind, Followers, SpaceUsage};

/// How long a vCPU may take to be done with a device that it no longer finds.
const LAST_ACCESS: Duration = Duration::from_secs(5);

/// A device of the host that the machine has.
pub struct Taken {
    /// The device.
    pub device: Arc<AssignedDevice>,
    /// Its place behind the guest's VT-d.
    member: Option<Arc<Member>>,
    /// To see when it is closed.
    kernel: Weak<KernelDevice>,
}

/// Takes devices of the host, and gives them back.
///
/// A device is reset first when it is given back, so that no memory is unmapped from under its
/// DMA. With the last one memory is unmapped, while that one still holds the host's IOMMU; then
/// it is closed. Behind a VT-d of the guest's that is so for each group of the host's IOMMU.
pub struct Assigner {
    side: Mutex<Side>,
    resets: ResetSet,
    routes: Arc<dyn MsiRoutes>,
    peers: Arc<Peers>,
    behind: Option<Behind>,
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
                host: HostSide::new(vm, fabric.ram.clone(), fabric.pages, fabric.behind.clone()),
                open: 0,
            }),
            resets: ResetSet::new(),
            routes: fabric.routes.clone(),
            peers: fabric.peers.clone(),
            behind: fabric.behind.clone(),
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
                match side.open {
                    0 => side.host.left(),
                    _ => {
                        drop(opened);
                        side.host.fewer();
                    }
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

    fn make(&self, wanted: &[config::Assign], opened: &[Opened]) -> Result<Vec<Taken>, Error> {
        let enter = |(assign, opened): (&config::Assign, &Opened)| {
            let device = assign.device;
            self.resets
                .enter(&device.to_string(), device.pci(), opened.kernel.clone())
        };
        // All of them before the first is taken and reset.
        let seats: Vec<_> = wanted.iter().zip(opened).map(enter).collect();
        let take = |((seat, assign), opened): ((_, &config::Assign), &Opened)| {
            let presentation = assign.presentation.clone();
            let presentation = match &self.behind {
                Some(behind) => behind.present(presentation),
                None => presentation,
            };
            let taken = AssignedDevice::new(seat, self.routes.clone(), &presentation);
            let device = taken.map_err(|error| AssignError {
                name: Host::this_machine().describe(assign.device),
                ..error
            })?;
            if let Some(member) = &opened.member {
                let member: Arc<dyn RequesterWatcher> = member.clone();
                device.watch_requester(Arc::downgrade(&member));
            }
            Ok(Taken {
                device,
                member: opened.member.clone(),
                kernel: Arc::downgrade(&opened.kernel),
            })
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
        for taken in &taken {
            taken.device.release();
            if let Some(member) = &taken.member {
                member.leave();
            }
        }
        let mut side = self.side();
        side.open = side.open.saturating_sub(taken.len());
        self.tell_peers(&side);
        match side.open {
            0 => side.host.left(),
            _ => side.host.fewer(),
        }
        for Taken { device, kernel, .. } in taken {
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
