//! What assigned devices reach of each other: the BARs that the guest maps, at the addresses
//! where it has them, so that one device can do DMA into another.
//!
//! Only where there is a peer. iommufd maps no memory of devices unless the kernel hands it over
//! as a dma-buf; where a BAR cannot be mapped, such DMA fails in the host's IOMMU, and a line in
//! the log says so once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::bus::Mapping;
use iommu::host::HostMapper;

use crate::machine::installer::PeerMemory;

/// Memory of devices that others may reach.
#[derive(Default)]
pub struct Peers(Mutex<State>);

#[derive(Default)]
struct State {
    /// While there are devices that could reach each other.
    mapper: Option<Arc<dyn HostMapper>>,
    /// By address in the guest.
    memory: BTreeMap<u64, Peer>,
    complained: bool,
}

struct Peer {
    memory: Arc<dyn Mapping>,
    mapped: bool,
}

impl Peers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on so many devices are behind `mapper`.
    pub fn set_devices(&self, mapper: &Arc<dyn HostMapper>, count: usize) {
        let state = &mut *self.state();
        if count < 2 {
            state.forget();
        } else if state.mapper.is_none() {
            state.mapper = Some(mapper.clone());
            let addresses: Vec<_> = state.memory.keys().copied().collect();
            addresses.into_iter().for_each(|address| state.map(address));
        }
    }

    /// The host's IOMMU goes.
    pub fn forget(&self) {
        self.state().forget();
    }
}

impl State {
    fn map(&mut self, address: u64) {
        let (Some(mapper), Some(peer)) = (&self.mapper, self.memory.get_mut(&address)) else {
            return;
        };
        let (host, len) = (peer.memory.host_address(), peer.memory.len() as u64);
        // SAFETY: `peer` keeps the memory mapped until it is unmapped from the IOMMU.
        let mapped = unsafe { mapper.map(address, host as *mut u8, len, peer.memory.writable()) };
        peer.mapped = mapped.is_ok();
        if let Err(error) = mapped
            && !std::mem::replace(&mut self.complained, true)
        {
            let cause = &error.source;
            tracing::warn!(%error, %cause, "assigned devices do not reach each other's memory");
        }
    }

    fn unmap(&mut self, address: u64) {
        let (Some(mapper), Some(peer)) = (&self.mapper, self.memory.get_mut(&address)) else {
            return;
        };
        if !std::mem::take(&mut peer.mapped) {
            return;
        }
        if let Err(error) = mapper.unmap(address, peer.memory.len() as u64) {
            tracing::warn!(%error, cause = %error.source, "memory of a device stays mapped");
            // What the IOMMU still has must not become something else's.
            std::mem::forget(peer.memory.clone());
        }
    }

    fn forget(&mut self) {
        let addresses: Vec<_> = self.memory.keys().copied().collect();
        addresses
            .into_iter()
            .for_each(|address| self.unmap(address));
        self.mapper = None;
    }
}

impl PeerMemory for Peers {
    fn appeared(&self, address: u64, memory: &Arc<dyn Mapping>) {
        let mut state = self.state();
        let peer = Peer {
            memory: memory.clone(),
            mapped: false,
        };
        state.memory.insert(address, peer);
        state.map(address);
    }

    fn vanishes(&self, address: u64) {
        let mut state = self.state();
        state.unmap(address);
        state.memory.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use iommu::host::MapError;

    use super::*;

    struct Bar(usize);

    impl Mapping for Bar {
        fn host_address(&self) -> usize {
            0x10_0000
        }
        fn len(&self) -> usize {
            self.0
        }
        fn writable(&self) -> bool {
            true
        }
        fn is_device(&self) -> bool {
            true
        }
    }

    /// What is mapped, by address; it may refuse.
    #[derive(Default)]
    struct Recorder {
        live: Mutex<BTreeMap<u64, u64>>,
        refuses: bool,
    }

    impl HostMapper for Recorder {
        // SAFETY: nothing is reached through it.
        unsafe fn map(&self, iova: u64, _: *mut u8, len: u64, _: bool) -> Result<(), MapError> {
            if self.refuses {
                return Err(MapError {
                    operation: "map",
                    iova,
                    len,
                    source: io::Error::from_raw_os_error(nix::libc::EFAULT),
                });
            }
            let before = self.live.lock().unwrap().insert(iova, len);
            assert_eq!(before, None, "mapped twice");
            Ok(())
        }

        fn unmap(&self, iova: u64, len: u64) -> Result<(), MapError> {
            let removed = self.live.lock().unwrap().remove(&iova);
            assert_eq!(removed, Some(len), "was not mapped");
            Ok(())
        }
    }

    fn recorder(refuses: bool) -> (Arc<Recorder>, Arc<dyn HostMapper>) {
        let recorder = Arc::new(Recorder {
            refuses,
            ..Recorder::default()
        });
        (recorder.clone(), recorder)
    }

    fn bar(len: usize) -> Arc<dyn Mapping> {
        Arc::new(Bar(len))
    }

    #[test]
    fn bars_are_mapped_while_there_is_somebody_to_reach_them() {
        let (recorder, mapper) = recorder(false);
        let live = || recorder.live.lock().unwrap().clone();
        let peers = Peers::default();
        peers.set_devices(&mapper, 1);
        peers.appeared(0xc000_0000, &bar(0x4000));
        assert!(live().is_empty(), "alone");
        peers.set_devices(&mapper, 2);
        peers.appeared(0xd000_0000, &bar(0x1000));
        let both = BTreeMap::from([(0xc000_0000, 0x4000), (0xd000_0000, 0x1000)]);
        assert_eq!(live(), both);
        peers.vanishes(0xc000_0000);
        assert_eq!(live().len(), 1);
        peers.appeared(0xe000_0000, &bar(0x4000));
        peers.set_devices(&mapper, 1);
        assert!(live().is_empty(), "alone again");
        peers.set_devices(&mapper, 3);
        assert_eq!(live().len(), 2);
        peers.forget();
        assert!(live().is_empty());
        peers.vanishes(0xd000_0000);
    }

    #[test]
    fn what_cannot_be_mapped_is_never_unmapped() {
        let (_, mapper) = recorder(true);
        let peers = Peers::default();
        peers.set_devices(&mapper, 2);
        peers.appeared(0xc000_0000, &bar(0x4000));
        peers.vanishes(0xc000_0000);
        peers.appeared(0xc000_0000, &bar(0x4000));
        peers.forget();
    }
}
