//! A guest's domain, mirrored into the host's IOMMU: what the guest maps for an assigned
//! device is what the device reaches, no more and no less.
//!
//! Devices that the host's IOMMU cannot tell apart share a shadow. They reach something while
//! all of them are in one domain; while they are not, which a guest that knows its groups makes
//! short, they reach nothing.
//!
//! [`Shadow`] reads the guest's tables when it is told that they changed
//! ([`Shadow::follow`]), which a guest announces in full only with caching mode on, and maps
//! the difference. What is gone is unmapped before it returns, so before the guest is told
//! that its invalidation is done.
//!
//! The host's IOMMU unmaps whole mappings only. What is announced at once is mapped in the
//! longest runs there are, and never joined to what is mapped already: as guests take down
//! what they have put up, a mapping is hardly ever cut. When one is, the rest of it is out
//! for the moment until it is mapped anew.
//!
//! A shadow keeps its unit. The unit's sink, which the unit keeps, is to hold shadows weakly.
//!
//! What the host does not map, or a limit forbids, is a fault that the unit records at once, as
//! the device's own accesses fault in the host, where the guest does not see them.
//!
//! In scalable mode it follows pass-through and second-stage tables. What a guest adds to
//! first-stage tables it need not announce, so with those a device reaches nothing, and
//! [`ShadowError::FirstStage`] says so.
//!
//! Where it differs from the guest's tables:
//! - What is not RAM, such as another device's registers, is not mapped.
//! - What the guest lets the device only write, it may read too: [`HostMapper`] has no
//!   mappings without reading.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pci::Bdf;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use self::plan::{Ram, Run, Wanted};
use crate::host::{HostMapper, MapError};
use crate::vtd::{AddressSpace, TooManyTables, TranslationChange, UNTRANSLATED, Vtd};

/// Every I/O virtual address: none has more than 57 bits, and identity at most 52.
const EVERYTHING: Range<u64> = 0..1 << 57;

/// How much of a guest's making a shadow follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShadowLimits {
    /// Mappings in the host. The type1 IOMMU has 65535 unless told otherwise.
    pub mappings: usize,
    /// Bytes mapped, which are pinned. Memory mapped twice counts twice.
    pub bytes: u64,
    /// Page tables looked at in one go. Each 4 KiB page table maps up to 2 MiB.
    pub tables: usize,
}

impl Default for ShadowLimits {
    fn default() -> Self {
        Self {
            mappings: 60_000,
            bytes: u64::MAX,
            tables: 1 << 18,
        }
    }
}

/// What a shadow is made of.
pub struct ShadowConfig {
    /// The guest's unit.
    pub vtd: Arc<Vtd>,
    /// What stands for its devices in messages.
    pub name: Arc<str>,
    /// Its devices, as the guest knows them, as far as it has numbered their buses.
    pub requesters: Vec<Bdf>,
    /// Guest RAM.
    pub memory: Arc<GuestMemoryMmap<()>>,
    /// The devices' address space in the host. Nothing else may map into it.
    pub mapper: Arc<dyn HostMapper>,
    /// How much it follows.
    pub limits: ShadowLimits,
}

/// What following a change came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Followed {
    /// Bytes mapped.
    pub mapped: u64,
    /// Bytes unmapped; some may have been mapped again.
    pub unmapped: u64,
}

/// The device does not reach all that the guest lets it reach, or reaches more.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// The host kept a mapping that must go: the device may still reach it. It is tried again
    /// with the next change.
    #[error("{name} still reaches memory that the guest has taken from it")]
    Unmap {
        /// The device.
        name: Arc<str>,
        /// What the host said, the first time.
        #[source]
        source: MapError,
    },
    /// The host did not map something: the device cannot reach it.
    #[error("{name} does not reach {failed} of the ranges that the guest maps for it")]
    Map {
        /// The device.
        name: Arc<str>,
        /// How many.
        failed: usize,
        /// What the host said, the first time.
        #[source]
        source: MapError,
    },
    /// The guest has first-stage tables for the device, which cannot be followed. It is said once,
    /// until the guest has others.
    #[error(
        "{name} reaches nothing: the guest gives it first-stage tables and need not announce \
         what it adds to them; have the guest use second-stage tables, which are all that it is \
         offered with caching-mode=on"
    )]
    FirstStage {
        /// The device.
        name: Arc<str>,
    },
    /// The guest maps more than the limits allow; the device reaches a part of it.
    #[error("the guest maps more for {name} than is allowed")]
    Limit {
        /// The device.
        name: Arc<str>,
    },
}

/// An assigned device's part of the host's IOMMU, kept like its domain in the guest.
pub struct Shadow {
    config: Parts,
    ram: Ram,
    state: Mutex<State>,
}

/// [`ShadowConfig`], but for what changes.
struct Parts {
    vtd: Arc<Vtd>,
    name: Arc<str>,
    memory: Arc<GuestMemoryMmap<()>>,
    mapper: Arc<dyn HostMapper>,
    limits: ShadowLimits,
}

struct State {
    requesters: Vec<Bdf>,
    /// Nothing is mapped any more, whatever the guest does.
    ended: bool,
    space: AddressSpace,
    /// By first I/O virtual address.
    mapped: BTreeMap<u64, Run>,
    bytes: u64,
}

impl Shadow {
    /// A shadow with nothing mapped; [`Self::replay`] maps what is there.
    pub fn new(config: ShadowConfig) -> Self {
        let mut ram: Vec<_> = config
            .memory
            .iter()
            .map(|region| {
                let start = region.start_addr().raw_value();
                start..start.saturating_add(region.len())
            })
            .collect();
        ram.sort_by_key(|region| region.start);
        Self {
            config: Parts {
                vtd: config.vtd,
                name: config.name,
                memory: config.memory,
                mapper: config.mapper,
                limits: config.limits,
            },
            ram: Ram(ram),
            state: Mutex::new(State {
                requesters: config.requesters,
                ended: false,
                space: AddressSpace::Nothing,
                mapped: BTreeMap::new(),
                bytes: 0,
            }),
        }
    }

    /// What stands for its devices in messages.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Bytes mapped.
    pub fn mapped_bytes(&self) -> u64 {
        self.state().bytes
    }

    /// Mappings in the host.
    pub fn mappings(&self) -> usize {
        self.state().mapped.len()
    }

    /// Makes everything as the tables say now: when the device is attached.
    pub fn replay(&self) -> Result<Followed, ShadowError> {
        let state = &mut *self.state();
        let space = self.space(state);
        self.enter(state, space)
    }

    /// Follows the devices to new requester ids, and makes everything as the tables say for
    /// those.
    pub fn set_requesters(&self, requesters: Vec<Bdf>) -> Result<Followed, ShadowError> {
        let state = &mut *self.state();
        state.requesters = requesters;
        let space = self.space(state);
        self.enter(state, space)
    }

    /// Follows what the guest has announced. When this returns without [`ShadowError::Unmap`],
    /// the device reaches nothing that the guest has taken from it.
    pub fn follow(&self, change: TranslationChange) -> Result<Followed, ShadowError> {
        // What was read before another thread's change must not be followed after it.
        let state = &mut *self.state();
        let space = self.space(state);
        if space != state.space {
            return self.enter(state, space);
        }
        let domain = space.domain();
        let mut requesters = state.requesters.iter();
        if !requesters.any(|requester| change.concerns(*requester, domain)) {
            return Ok(Followed::default());
        }
        let range = match change {
            TranslationChange::Pages { iova, len, .. } => iova..iova.saturating_add(len),
            _ => EVERYTHING,
        };
        self.synchronize(state, range)
    }

    /// Unmaps everything, for good: before the device goes.
    pub fn end(&self) -> Result<Followed, ShadowError> {
        let state = &mut *self.state();
        state.ended = true;
        state.space = AddressSpace::Nothing;
        self.synchronize(state, EVERYTHING)
    }

    /// Makes everything as an address space says.
    fn enter(&self, state: &mut State, space: AddressSpace) -> Result<Followed, ShadowError> {
        let before = std::mem::replace(&mut state.space, space);
        let followed = self.synchronize(state, EVERYTHING)?;
        match space {
            AddressSpace::FirstStage if before != space => Err(ShadowError::FirstStage {
                name: self.config.name.clone(),
            }),
            _ => Ok(followed),
        }
    }

    /// Where the devices' address space is, if they have one in common.
    fn space(&self, state: &State) -> AddressSpace {
        match state.ended {
            true => AddressSpace::Nothing,
            false => self.config.vtd.common_space(&state.requesters),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `range` as the tables say: first unmaps what is not wanted, then maps what is
    /// missing.
    fn synchronize(&self, state: &mut State, range: Range<u64>) -> Result<Followed, ShadowError> {
        let range = widen(state, range);
        let (wanted, complete) = self.wanted(state.space, &range);
        let mut followed = Followed::default();
        let kept = self.unmap_unwanted(state, &wanted, &range, &mut followed)?;
        let shortfall = self.map_missing(state, &wanted.missing(&kept), &mut followed);
        let shortfall = shortfall.or_else(|| {
            let iova = wanted.runs.last().map_or(range.start, Run::end);
            (!complete).then(|| Shortfall::limit(iova))
        });
        let Some(shortfall) = shortfall else {
            return Ok(followed);
        };
        for requester in &state.requesters {
            self.config.vtd.record_unreached(*requester, shortfall.iova);
        }
        Err(shortfall.error(&self.config.name))
    }

    /// What the device is to reach in `range`; false if that is not all of it.
    fn wanted(&self, space: AddressSpace, range: &Range<u64>) -> (Wanted, bool) {
        let limits = &self.config.limits;
        let mut wanted = Wanted::new(limits.mappings);
        let complete = match space {
            AddressSpace::Nothing | AddressSpace::FirstStage => true,
            AddressSpace::Identity { width, protected } => {
                let end = 1_u64.checked_shl(width.into()).unwrap_or(u64::MAX);
                let range = range.start..range.end.min(end);
                let regions = self.ram.0.iter().cloned();
                let mut parts = regions.flat_map(|region| protected.allowed_parts(region));
                parts.all(|part| add(&mut wanted, &self.ram, Run::identity(part), &range))
            }
            AddressSpace::Domain { root, levels, .. } => {
                self.walk((root, levels), range, &mut wanted)
            }
        };
        (wanted, complete)
    }

    fn walk(&self, tables: (u64, u8), range: &Range<u64>, wanted: &mut Wanted) -> bool {
        let mut room = true;
        let limit = self.config.limits.tables;
        let all = self
            .config
            .vtd
            .for_each_page(tables, range.clone(), limit, &mut |page| {
                let run = Run {
                    iova: page.iova,
                    gpa: page.gpa,
                    len: 1 << page.shift,
                    writable: page.write,
                };
                room = add(wanted, &self.ram, run, range);
                match room {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            });
        room && all != Err(TooManyTables)
    }

    /// Unmaps what is in `range` and not wanted as it is. Gives what stays, in order.
    fn unmap_unwanted(
        &self,
        state: &mut State,
        wanted: &Wanted,
        range: &Range<u64>,
        followed: &mut Followed,
    ) -> Result<Vec<Run>, ShadowError> {
        let inside = state.mapped.range(range.clone()).map(|(_, run)| *run);
        let (kept, unwanted): (Vec<_>, Vec<_>) = inside.partition(|run| wanted.keeps(run));
        let mut failed = None;
        for run in unwanted {
            match self.config.mapper.unmap(run.iova, run.len) {
                Ok(()) => {
                    state.mapped.remove(&run.iova);
                    state.bytes -= run.len;
                    followed.unmapped += run.len;
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            None => Ok(kept),
            Some(source) => Err(ShadowError::Unmap {
                name: self.config.name.clone(),
                source,
            }),
        }
    }

    /// Maps what is missing, as far as the host and the limits allow.
    fn map_missing(
        &self,
        state: &mut State,
        missing: &[Run],
        followed: &mut Followed,
    ) -> Option<Shortfall> {
        let limits = &self.config.limits;
        let mut shortfall = None;
        for run in missing {
            let bytes = state.bytes.saturating_add(run.len);
            if state.mapped.len() >= limits.mappings || bytes > limits.bytes {
                return shortfall.or_else(|| Some(Shortfall::limit(run.iova)));
            }
            match self.map(run) {
                Ok(()) => {
                    state.mapped.insert(run.iova, *run);
                    state.bytes = bytes;
                    followed.mapped += run.len;
                }
                Err(error) => {
                    let shortfall = shortfall.get_or_insert(Shortfall::limit(run.iova));
                    shortfall.failed += 1;
                    shortfall.source.get_or_insert(error);
                }
            }
        }
        shortfall
    }

    fn map(&self, run: &Run) -> Result<(), MapError> {
        let host = self
            .config
            .memory
            .get_host_address(GuestAddress(run.gpa))
            .map_err(|error| MapError {
                operation: "map",
                iova: run.iova,
                len: run.len,
                source: std::io::Error::other(error),
            })?;
        // SAFETY: a run lies in one region of guest RAM, which `config.memory` keeps; it is
        // unmapped at the latest when the shadow is dropped.
        unsafe {
            self.config
                .mapper
                .map(run.iova, host, run.len, run.writable)
        }
    }
}

/// What a device does not reach although the guest maps it.
struct Shortfall {
    /// The first I/O virtual address of it.
    iova: u64,
    /// How many ranges the host did not map.
    failed: usize,
    /// What the host said, the first time; nothing if a limit was reached before.
    source: Option<MapError>,
}

impl Shortfall {
    fn limit(iova: u64) -> Self {
        Self {
            iova,
            failed: 0,
            source: None,
        }
    }

    fn error(self, name: &Arc<str>) -> ShadowError {
        let name = name.clone();
        match self.source {
            None => ShadowError::Limit { name },
            Some(source) => ShadowError::Map {
                name,
                failed: self.failed,
                source,
            },
        }
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "guest memory stays mapped for a device");
        }
    }
}

/// Adds what of a run is in `range` and is translated at all. False if there is no room.
fn add(wanted: &mut Wanted, ram: &Ram, run: Run, range: &Range<u64>) -> bool {
    let parts = [
        range.start..range.end.min(UNTRANSLATED.start),
        range.start.max(UNTRANSLATED.end)..range.end,
    ];
    parts
        .iter()
        .filter_map(|part| run.within(part))
        .all(|run| wanted.add(ram, run))
}

/// `range`, and the whole of every mapping that it touches.
fn widen(state: &State, range: Range<u64>) -> Range<u64> {
    let before = state.mapped.range(..range.start).next_back();
    let last = state.mapped.range(..range.end).next_back();
    let start = match before {
        Some((_, run)) if run.end() > range.start => run.iova,
        _ => range.start,
    };
    let end = last.map_or(range.end, |(_, run)| run.end().max(range.end));
    start..end
}
