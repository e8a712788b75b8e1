//! Devices behind the guest's VT-d: each group of the host's IOMMU has an address space of its
//! own, which is kept like the domain that the guest has the group's devices in ([`Shadow`]).
//!
//! Nothing else is ever mapped there: not the BARs of other devices, and not the whole of memory
//! but while the guest has not turned translation on.
//!
//! **Memory.** A space is made with all of the guest's memory in it, so each counts once against
//! the limit of locked memory. A guest may map memory as often as it likes; what a space holds is
//! limited to twice the guest's memory, for the host's tables grow with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use devices::dma::{Drain, GuestRam};
use devices::guest_error;
use devices::vfio::{Presentation, RequesterWatcher};
use iommu::host::{HostMapper, check_lock_limit};
use iommu::shadow::{Followed, Shadow, ShadowConfig, ShadowError, ShadowLimits};
use iommu::vtd::{TranslationChange, Vtd};
use pci::Bdf;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::interface::{Interface, Opener};
use super::open::{Memory, Prospect};
use crate::machine::Error;

/// How often the guest's memory may be in a space.
const TIMES: u64 = 2;

/// What devices are behind.
#[derive(Clone)]
pub struct Behind {
    /// The guest's unit.
    pub vtd: Arc<Vtd>,
    /// What follows it, of assigned devices.
    pub followers: Arc<Followers>,
    /// What waits for emulated ones.
    pub drain: Arc<Drain>,
}

impl Behind {
    /// How a device behind it is shown, of which the operator has said this.
    pub fn present(&self, presentation: Presentation) -> Presentation {
        Presentation {
            device_tlb: self.vtd.config().device_tlb,
            ..presentation
        }
    }
}

/// The spaces that follow the guest's unit.
#[derive(Default)]
pub struct Followers(ArcSwap<Vec<Weak<Space>>>);

/// What a space holds.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct SpaceUsage {
    /// The devices in it.
    pub devices: Vec<String>,
    /// Mappings in the host's IOMMU.
    pub mappings: usize,
    /// Bytes that are mapped, and so pinned.
    pub bytes: u64,
}

impl Followers {
    /// Follows what the guest announced. When this returns no device reaches what is gone.
    pub fn follow(&self, change: TranslationChange) {
        for space in self.0.load().iter().filter_map(Weak::upgrade) {
            tell(space.shadow.follow(change));
        }
    }

    /// What each space holds.
    pub fn usage(&self) -> Vec<SpaceUsage> {
        let spaces = self.0.load();
        let usage = |space: Arc<Space>| SpaceUsage {
            devices: space.members().names(),
            mappings: space.shadow.mappings(),
            bytes: space.shadow.mapped_bytes(),
        };
        spaces.iter().filter_map(Weak::upgrade).map(usage).collect()
    }

    /// Makes a new space as the unit is now: known to the unit first, so that no change is
    /// missed.
    fn fill(&self, space: &Arc<Space>) -> Result<(), ShadowError> {
        self.add(space);
        match space.shadow.replay() {
            Err(error @ ShadowError::Map { .. }) => Err(error),
            followed => {
                tell(followed);
                Ok(())
            }
        }
    }

    fn add(&self, space: &Arc<Space>) {
        self.0.rcu(|spaces| {
            let live = spaces.iter().filter(|space| space.strong_count() > 0);
            let mut spaces: Vec<_> = live.cloned().collect();
            spaces.push(Arc::downgrade(space));
            spaces
        });
    }
}

/// A line in the log where the host did not do what the guest asked for.
fn tell(followed: Result<Followed, ShadowError>) {
    if let Err(error) = followed {
        let cause = std::error::Error::source(&error).map(describe);
        guest_error!(%error, cause, "the guest's mappings are not as it wants them");
    }
}

/// An error and its causes.
fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {}", describe(source)),
    }
}

/// An address space of the host's IOMMU, and who is in it.
struct Space {
    shadow: Shadow,
    members: Mutex<Members>,
}

/// Devices in a space, by number.
#[derive(Default)]
struct Members {
    next: u32,
    seats: BTreeMap<u32, Seat>,
}

struct Seat {
    name: String,
    requester: Option<Bdf>,
}

impl Members {
    fn known(&self) -> Vec<Bdf> {
        let seats = self.seats.values();
        seats.filter_map(|seat| seat.requester).collect()
    }

    fn names(&self) -> Vec<String> {
        self.seats.values().map(|seat| seat.name.clone()).collect()
    }
}

impl Space {
    /// Nothing is mapped, and nobody in it.
    fn new(
        name: &str,
        vtd: &Arc<Vtd>,
        ram: &Arc<GuestRam>,
        mapper: Arc<dyn HostMapper>,
    ) -> Arc<Self> {
        let size: u64 = ram.iter().map(|region| region.len()).sum();
        let shadow = Shadow::new(ShadowConfig {
            vtd: vtd.clone(),
            name: name.into(),
            requesters: Vec::new(),
            memory: ram.clone(),
            mapper,
            limits: ShadowLimits {
                bytes: size.saturating_mul(TIMES),
                ..ShadowLimits::default()
            },
        });
        Arc::new(Self {
            shadow,
            members: Mutex::default(),
        })
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self) -> bool {
        self.members().seats.is_empty()
    }

    fn join(self: &Arc<Self>, name: &str) -> Arc<Member> {
        let mut members = self.members();
        let id = members.next;
        members.next += 1;
        let seat = Seat {
            name: name.into(),
            requester: None,
        };
        members.seats.insert(id, seat);
        Arc::new(Member {
            space: self.clone(),
            id,
        })
    }
}

/// A device's place in a space.
pub struct Member {
    space: Arc<Space>,
    id: u32,
}

impl Member {
    /// Leaves the space, which is empty after the last one. To be called before the device is
    /// closed, and after it has been reset.
    pub fn leave(&self) {
        let mut members = self.space.members();
        if members.seats.remove(&self.id).is_none() {
            return;
        }
        tell(match members.seats.is_empty() {
            true => self.space.shadow.end(),
            false => self.space.shadow.set_requesters(members.known()),
        });
    }
}

impl RequesterWatcher for Member {
    fn requester_changed(&self, requester: Bdf) {
        let mut members = self.space.members();
        let Some(seat) = members.seats.get_mut(&self.id) else {
            return;
        };
        // A bus without a number is told as 00:00.0, the host bridge.
        seat.requester = Some(requester).filter(|requester| *requester != Bdf::default());
        tell(self.space.shadow.set_requesters(members.known()));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The spaces of a machine's devices. All are of one interface.
pub struct Shadows<I = Interface> {
    behind: Behind,
    /// By group of the host's IOMMU.
    spaces: BTreeMap<String, Known<I>>,
}

struct Known<I> {
    space: Weak<Space>,
    /// What its devices are opened through.
    interface: I,
}

impl<I> Known<I> {
    fn is_live(&self) -> bool {
        let space = self.space.upgrade();
        space.is_some_and(|space| !space.is_empty())
    }
}

/// A device that is open, and its place, which it leaves before it is closed.
type Entered<D> = (Arc<Member>, Arc<D>);

impl<I: Clone> Shadows<I> {
    /// None yet.
    pub fn new(behind: Behind) -> Self {
        Self {
            behind,
            spaces: BTreeMap::new(),
        }
    }

    /// Opens devices, each into the space of its group. If one cannot be opened, none is, and
    /// nothing is left of spaces that were made for them.
    pub fn open<O: Opener<Interface = I>>(
        &mut self,
        opener: &O,
        prospects: &[Prospect],
        memory: &Memory,
    ) -> Result<Vec<Entered<O::Device>>, Error> {
        if !self.behind.vtd.config().caching_mode {
            return Err(Error::NoCachingMode);
        }
        self.tidy();
        let opened = self.open_all(opener, prospects, memory);
        if opened.is_err() {
            self.tidy();
        }
        opened
    }

    fn open_all<O: Opener<Interface = I>>(
        &mut self,
        opener: &O,
        prospects: &[Prospect],
        memory: &Memory,
    ) -> Result<Vec<Entered<O::Device>>, Error> {
        let groups: Vec<_> = prospects.iter().map(group).collect();
        let new: BTreeSet<_> = groups
            .iter()
            .filter(|group| !self.spaces.contains_key(*group))
            .collect();
        check_lock_limit(&memory.ram, new.len() as u64)?;
        let (interface, mut unused) = match self.spaces.values().next() {
            Some(known) => (known.interface.clone(), None),
            None => {
                memory.populate()?;
                let chosen = opener.choose()?;
                (chosen.clone(), Some(chosen))
            }
        };
        opener.check_wishes(&interface)?;
        let mut opened = Vec::new();
        for (prospect, group) in prospects.iter().zip(groups) {
            let name = &prospect.candidate.name;
            if let Some(known) = self.spaces.get(&group)
                && let Some(space) = known.space.upgrade()
            {
                let device = opener.open(&known.interface, prospect)?;
                opened.push((space.join(name), device));
                continue;
            }
            let fresh = match unused.take() {
                Some(fresh) => fresh,
                None => opener.another(&interface)?,
            };
            let vtd = &self.behind.vtd;
            let space = Space::new(name, vtd, &memory.ram, opener.mapper(&fresh));
            // With type1, a space can be mapped into when there is a device in it.
            let device = opener.open(&fresh, prospect)?;
            opened.push((space.join(name), device));
            let known = Known {
                space: Arc::downgrade(&space),
                interface: fresh,
            };
            self.spaces.insert(group, known);
            self.behind.followers.fill(&space)?;
        }
        Ok(opened)
    }

    /// Lets go of the host's side of spaces that are empty.
    pub fn tidy(&mut self) {
        self.spaces.retain(|_, known| known.is_live());
    }

    /// Empties all spaces. For the end of the machine, or of an attempt.
    pub fn end(&mut self) {
        let spaces = std::mem::take(&mut self.spaces);
        for space in spaces.values().filter_map(|known| known.space.upgrade()) {
            tell(space.shadow.end());
        }
    }
}

/// What tells a device's group from others. A device that is in none is told by its name.
fn group(prospect: &Prospect) -> String {
    let link = fs::read_link(prospect.candidate.sysfs.join("iommu_group"));
    let number = link.ok().and_then(|target| {
        let name = target.file_name()?;
        Some(name.to_string_lossy().into_owned())
    });
    number.unwrap_or_else(|| prospect.candidate.name.clone())
}

#[cfg(test)]
mod tests;
