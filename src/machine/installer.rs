//! Putting a device's registers into the guest's address spaces: the slow path on the bus,
//! and the paths that spare an exit in KVM (doorbells, coalesced writes, direct memory).

use std::sync::{Arc, Mutex, PoisonError};

use devices::bus::{FastPath, Mapping, Region};
use devices::guest_error;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use pci::Space;
use vmm_sys_util::eventfd::EventFd;

use super::bus::{Bus, Overlap};

/// KVM's memory slots by number. RAM has the first ones.
#[derive(Default)]
pub struct Slots {
    used: Mutex<Vec<bool>>,
}

impl Slots {
    /// Takes the lowest free slot.
    pub fn take(&self) -> u32 {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = used.iter().position(|used| !used).unwrap_or(used.len());
        if slot == used.len() {
            used.push(true);
        } else {
            used[slot] = true;
        }
        slot as u32
    }

    fn free(&self, slot: u32) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = used.get_mut(slot as usize) {
            *used = false;
        }
    }
}

/// Who keeps the guest's memory map: KVM, or in tests one that refuses on demand.
pub trait MemoryMap: Send + Sync {
    /// Makes a memory slot what `region` says; with a size of zero, takes it away.
    ///
    /// # Safety
    ///
    /// What `region` names must stay mapped in this process until the slot is taken away.
    unsafe fn set(&self, region: kvm_userspace_memory_region) -> Result<(), kvm_ioctls::Error>;
}

impl MemoryMap for VmFd {
    // SAFETY: what the trait asks of the caller is what KVM asks.
    unsafe fn set(&self, region: kvm_userspace_memory_region) -> Result<(), kvm_ioctls::Error> {
        // SAFETY: the caller promises that the memory stays mapped until the slot is gone.
        unsafe { self.set_user_memory_region(region) }
    }
}

/// Who makes devices' memory reachable for other devices.
pub trait PeerMemory: Send + Sync {
    /// The guest has this memory of a device's at `address` from now on.
    fn appeared(&self, address: u64, memory: &Arc<dyn Mapping>);

    /// It has not any more.
    fn vanishes(&self, address: u64);
}

/// Where registers are put.
#[derive(Clone)]
pub struct Installer {
    /// The VM.
    pub vm: Arc<VmFd>,
    /// Its memory map.
    pub memory: Arc<dyn MemoryMap>,
    /// Ports.
    pub io: Arc<Bus>,
    /// Memory that is no RAM.
    pub mmio: Arc<Bus>,
    /// Memory slots.
    pub slots: Arc<Slots>,
    /// What devices reach of each other's memory.
    pub peers: Arc<dyn PeerMemory>,
}

/// What to put where.
pub struct Placement<'a> {
    /// Ports or memory.
    pub space: Space,
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub size: u64,
    /// For statistics and messages, such as `e1000/bar0`.
    pub name: &'a str,
    /// Who answers.
    pub region: Arc<dyn Region>,
    /// Ways around an exit.
    pub fast_paths: Vec<FastPath>,
}

impl Installer {
    /// Installs a region until the result is dropped. A fast path that KVM refuses is left
    /// out: those accesses exit.
    pub fn install(&self, placement: Placement<'_>) -> Result<Installed, Overlap> {
        let Placement {
            space,
            base,
            size,
            name,
            region,
            fast_paths,
        } = placement;
        let bus = match space {
            Space::Io => &self.io,
            Space::Memory => &self.mmio,
        };
        bus.insert(base, size, name, region)?;
        let mut installed = Installed {
            installer: self.clone(),
            bus: bus.clone(),
            base,
            paths: Vec::new(),
            incomplete: false,
        };
        for path in fast_paths {
            match self.add_path(space, base, path) {
                Ok(path) => installed.paths.push(path),
                Err(error) => {
                    installed.incomplete = true;
                    guest_error!(name, %error, "KVM refused a fast path; its accesses exit");
                }
            }
        }
        Ok(installed)
    }

    fn add_path(&self, space: Space, base: u64, path: FastPath) -> Result<Path, kvm_ioctls::Error> {
        match path {
            FastPath::Doorbell {
                offset,
                len,
                value,
                event,
            } => {
                let doorbell = Doorbell {
                    address: io_address(space, base + offset),
                    len,
                    value,
                    event,
                };
                doorbell.register(&self.vm)?;
                Ok(Path::Doorbell(doorbell))
            }
            FastPath::Coalesced { offset, len } => {
                let address = io_address(space, base + offset);
                self.vm.register_coalesced_mmio(address, len as u32)?;
                Ok(Path::Coalesced {
                    space,
                    address: base + offset,
                    len: len as u32,
                })
            }
            FastPath::Mapped { offset, memory } => self.map(base, offset, memory),
        }
    }

    fn map(
        &self,
        base: u64,
        offset: u64,
        memory: Arc<dyn Mapping>,
    ) -> Result<Path, kvm_ioctls::Error> {
        let slot = self.slots.take();
        let region = memory_slot(slot, base + offset, &*memory);
        // SAFETY: the memory stays mapped while `memory` lives, which the path keeps until
        // the slot is deleted.
        if let Err(error) = unsafe { self.memory.set(region) } {
            self.slots.free(slot);
            return Err(error);
        }
        if memory.is_device() {
            self.peers.appeared(base + offset, &memory);
        }
        Ok(Path::Mapped {
            slot,
            address: base + offset,
            memory,
        })
    }

    /// Takes a path away. KVM accepted it as it is, so this should not be refused; memory
    /// that KVM keeps nevertheless is never unmapped, and its slot not used again.
    fn remove_path(&self, path: &Path) {
        let result = match path {
            Path::Doorbell(doorbell) => doorbell.unregister(&self.vm),
            Path::Coalesced {
                space,
                address,
                len,
            } => self
                .vm
                .unregister_coalesced_mmio(io_address(*space, *address), *len),
            Path::Mapped {
                slot,
                address,
                memory,
            } => {
                if memory.is_device() {
                    self.peers.vanishes(*address);
                }
                let gone = kvm_userspace_memory_region {
                    slot: *slot,
                    ..Default::default()
                };
                // SAFETY: a size of zero deletes the slot and maps nothing.
                let result = unsafe { self.memory.set(gone) };
                match result {
                    Ok(()) => self.slots.free(*slot),
                    Err(_) => std::mem::forget(Arc::clone(memory)),
                }
                result
            }
        };
        if let Err(error) = result {
            guest_error!(%error, "KVM would not take back a fast path");
        }
    }
}

fn io_address(space: Space, address: u64) -> IoEventAddress {
    match space {
        Space::Io => IoEventAddress::Pio(address),
        Space::Memory => IoEventAddress::Mmio(address),
    }
}

fn memory_slot(slot: u32, address: u64, memory: &dyn Mapping) -> kvm_userspace_memory_region {
    kvm_userspace_memory_region {
        slot,
        flags: if memory.writable() {
            0
        } else {
            KVM_MEM_READONLY
        },
        guest_phys_addr: address,
        memory_size: memory.len() as u64,
        userspace_addr: memory.host_address() as u64,
    }
}

struct Doorbell {
    address: IoEventAddress,
    len: u8,
    value: Option<u64>,
    event: Arc<EventFd>,
}

impl Doorbell {
    fn register(&self, vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
        match (self.value, self.len) {
            (None, _) => vm.register_ioevent(&self.event, &self.address, NoDatamatch),
            (Some(value), 1) => vm.register_ioevent(&self.event, &self.address, value as u8),
            (Some(value), 2) => vm.register_ioevent(&self.event, &self.address, value as u16),
            (Some(value), 4) => vm.register_ioevent(&self.event, &self.address, value as u32),
            (Some(value), _) => vm.register_ioevent(&self.event, &self.address, value),
        }
    }

    fn unregister(&self, vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
        match (self.value, self.len) {
            (None, _) => vm.unregister_ioevent(&self.event, &self.address, NoDatamatch),
            (Some(value), 1) => vm.unregister_ioevent(&self.event, &self.address, value as u8),
            (Some(value), 2) => vm.unregister_ioevent(&self.event, &self.address, value as u16),
            (Some(value), 4) => vm.unregister_ioevent(&self.event, &self.address, value as u32),
            (Some(value), _) => vm.unregister_ioevent(&self.event, &self.address, value),
        }
    }
}

enum Path {
    Doorbell(Doorbell),
    Coalesced {
        space: Space,
        address: u64,
        len: u32,
    },
    Mapped {
        slot: u32,
        address: u64,
        memory: Arc<dyn Mapping>,
    },
}

impl Path {
    /// True if this is `memory` mapped at `at`.
    fn maps(&self, at: u64, what: &Arc<dyn Mapping>) -> bool {
        matches!(self, Self::Mapped { address, memory, .. }
            if *address == at
                && memory.host_address() == what.host_address()
                && memory.len() == what.len())
    }
}

/// A region in its place; gone from there when dropped.
pub struct Installed {
    installer: Installer,
    bus: Arc<Bus>,
    base: u64,
    paths: Vec<Path>,
    /// KVM refused a path.
    incomplete: bool,
}

impl Installed {
    /// KVM refused a path, which it may accept once something else has moved away.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Makes the mappings those of `wanted`; doorbells and coalesced ranges stay.
    pub fn set_mappings(&mut self, wanted: Vec<FastPath>) {
        let mut wanted: Vec<_> = wanted
            .into_iter()
            .filter_map(|path| match path {
                FastPath::Mapped { offset, memory } => Some((offset, memory)),
                _ => None,
            })
            .collect();
        let installer = &self.installer;
        self.paths.retain(|path| {
            let known = wanted
                .iter()
                .position(|(offset, memory)| path.maps(self.base + offset, memory));
            match known {
                Some(index) => drop(wanted.swap_remove(index)),
                None if matches!(path, Path::Mapped { .. }) => {
                    installer.remove_path(path);
                    return false;
                }
                None => {}
            }
            true
        });
        self.incomplete = false;
        for (offset, memory) in wanted {
            match self.installer.map(self.base, offset, memory) {
                Ok(path) => self.paths.push(path),
                Err(error) => {
                    self.incomplete = true;
                    guest_error!(%error, "KVM refused a mapping; accesses exit");
                }
            }
        }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        for path in self.paths.drain(..) {
            self.installer.remove_path(&path);
        }
        self.bus.remove(self.base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_from_the_lowest() {
        let slots = Slots::default();
        assert_eq!([slots.take(), slots.take(), slots.take()], [0, 1, 2]);
        slots.free(1);
        assert_eq!([slots.take(), slots.take()], [1, 3]);
    }
}
