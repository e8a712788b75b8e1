//! The context cache, the PASID cache and the IOTLB (VT-d 4.1 §6.2): what was found in the tables,
//! kept until software invalidates it. A requester's context and PASID entries are kept as one,
//! so what is about either forgets both.
//!
//! Requesters are spread over shards, each with a lock of its own, so devices hardly ever
//! meet and a hit only reads. An invalidation visits every shard.
//!
//! A walk is done with no lock held. The shard's generation, taken before, says whether an
//! invalidation came in between; then the result is used once but not kept. A walk that marks
//! entries as used, in the first stage, must not do so in what was a table once: it holds its
//! shard ([`Cache::hold`]), and an invalidation waits for it.
//!
//! Only present and valid entries are kept, with caching mode too. There are no caches of
//! paging structures: four loads from RAM cost less than keeping them would.

mod iotlb;

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use pci::Bdf;

use self::iotlb::Iotlb;
use super::reason::Chapter;
use super::sink::same_requesters;
use super::walk::{Context, Page, Stage};
use crate::Access;

const SHARDS: usize = 16;

/// Contexts a shard keeps.
const CONTEXTS: usize = 64;

/// What an invalidation of contexts is about (VT-d 4.1 §6.5.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ContextScope {
    Global,
    Domain(u16),
    /// The domain id comes with it, but the requester says enough.
    Device {
        source: Bdf,
        function_mask: u8,
    },
    /// PASID entries of a domain (§6.5.2.2): all, or those of a PASID.
    Pasids {
        domain: u16,
        pasid: Option<u32>,
    },
}

/// What an invalidation of the IOTLB is about (VT-d 4.1 §6.5.2.3, §6.5.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PageScope {
    Global,
    Domain(u16),
    /// 2 to the `order` pages of 4 KiB at `iova`, which is a multiple of that. The
    /// invalidation hint is about paging structures, which are not cached.
    Pages {
        domain: u16,
        iova: u64,
        order: u8,
    },
    /// A PASID of a domain, in what is not of the second stage alone.
    Pasid {
        domain: u16,
        pasid: u32,
    },
    /// 2 to the `order` pages of such a PASID.
    PasidPages {
        domain: u16,
        pasid: u32,
        iova: u64,
        order: u8,
    },
}

/// Which stages a page is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stages {
    /// The second: at addresses of the domain.
    Second,
    /// The first: at addresses of a PASID of the domain.
    First,
    /// Both: at such addresses too.
    Nested,
}

/// Whose a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub domain: u16,
    pub pasid: u32,
    pub stages: Stages,
}

impl Owner {
    fn of_domain(domain: u16) -> Self {
        Self {
            domain,
            pasid: 0,
            stages: Stages::Second,
        }
    }

    /// First-stage and nested.
    fn of_pasid(domain: u16, pasid: u32) -> [Self; 2] {
        [Stages::First, Stages::Nested].map(|stages| Self {
            domain,
            pasid,
            stages,
        })
    }

    /// Of the pages that a context leads to, if it does.
    fn of(context: &Context) -> Option<Self> {
        let stages = match context.stage {
            Stage::PassThrough => return None,
            Stage::Tables(_) => Stages::Second,
            Stage::First(_) => Stages::First,
            Stage::Nested(..) => Stages::Nested,
        };
        Some(Self {
            domain: context.domain,
            pasid: context.pasid,
            stages,
        })
    }
}

/// All that a request needs.
pub(super) enum Hit {
    /// The requester's addresses are guest-physical.
    PassThrough(Context),
    /// The page, and it may be accessed so.
    Page(Context, Page),
}

/// Something has to be read from the tables.
pub(super) struct Miss {
    /// What is known of the requester.
    pub context: Option<Context>,
    /// Of the shard: to be given back with what is read.
    pub generation: u64,
}

/// All shards.
pub(super) struct Cache {
    shards: [RwLock<Shard>; SHARDS],
}

/// A requester's shard, held.
pub(super) struct Held<'a>(RwLockReadGuard<'a, Shard>);

impl Held<'_> {
    /// Of the shard, until this is dropped.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }
}

#[derive(Default)]
struct Shard {
    generation: u64,
    contexts: Vec<Context>,
    /// Which context goes next when there is no room.
    victim: usize,
    pages: Iotlb,
}

impl Cache {
    pub fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
        }
    }

    /// Looks a request up.
    pub fn find(&self, requester: Bdf, iova: u64, access: Access) -> Result<Hit, Miss> {
        let shard = self
            .shard(requester)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let context = shard.context(requester);
        context
            .and_then(|context| shard.hit(context, iova, access))
            .ok_or(Miss {
                context,
                generation: shard.generation,
            })
    }

    /// Keeps invalidations from being done until this is dropped, which must be soon.
    pub fn hold(&self, requester: Bdf) -> Held<'_> {
        let shard = self.shard(requester).read();
        Held(shard.unwrap_or_else(PoisonError::into_inner))
    }

    /// An invalidation would have to wait.
    #[cfg(test)]
    pub fn is_held(&self, requester: Bdf) -> bool {
        self.shard(requester).try_write().is_err()
    }

    /// Keeps what a walk found, unless something was invalidated since `generation`.
    pub fn keep(&self, generation: u64, context: Context, page: Option<Page>) {
        let shard = &mut *self
            .shard(context.requester)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if shard.generation != generation {
            return;
        }
        shard.keep_context(context);
        if let (Some(page), Some(owner)) = (page, Owner::of(&context)) {
            shard.pages.insert(owner, page);
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.each(|shard| {
            shard.contexts.clear();
            shard.pages.clear();
        });
    }

    /// Forgets contexts.
    pub fn invalidate_contexts(&self, scope: ContextScope) {
        self.each(|shard| match scope {
            ContextScope::Global => shard.contexts.clear(),
            // In scalable mode context entries have no domain to be told by.
            ContextScope::Domain(domain) => shard
                .contexts
                .retain(|c| c.chapter == Chapter::Legacy && c.domain != domain),
            ContextScope::Device {
                source,
                function_mask,
            } => shard
                .contexts
                .retain(|c| !same_requesters(source, function_mask, c.requester)),
            ContextScope::Pasids { domain, pasid } => shard.contexts.retain(|c| {
                let same = c.domain == domain && pasid.is_none_or(|pasid| c.pasid == pasid);
                c.chapter == Chapter::Legacy || !same
            }),
        });
    }

    /// Forgets pages.
    pub fn invalidate_pages(&self, scope: PageScope) {
        self.each(|shard| match scope {
            PageScope::Global => shard.pages.clear(),
            PageScope::Domain(domain) => shard.pages.invalidate_domain(domain),
            PageScope::Pages {
                domain,
                iova,
                order,
            } => shard.pages.invalidate(domain, iova, order),
            PageScope::Pasid { domain, pasid } => shard.pages.invalidate_pasid(domain, pasid),
            PageScope::PasidPages {
                domain,
                pasid,
                iova,
                order,
            } => shard
                .pages
                .invalidate_pasid_pages(domain, pasid, iova, order),
        });
    }

    fn each(&self, forget: impl Fn(&mut Shard)) {
        for shard in &self.shards {
            let shard = &mut *shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.generation = shard.generation.wrapping_add(1);
            forget(shard);
        }
    }

    fn shard(&self, requester: Bdf) -> &RwLock<Shard> {
        // Functions of a device and devices of a bus differ in these bits.
        let id = usize::from(requester.requester_id());
        &self.shards[(id ^ id >> 3 ^ id >> 8) % SHARDS]
    }
}

impl Shard {
    fn context(&self, requester: Bdf) -> Option<Context> {
        self.contexts
            .iter()
            .find(|c| c.requester == requester)
            .copied()
    }

    fn hit(&self, context: Context, iova: u64, access: Access) -> Option<Hit> {
        if !context.takes(iova) {
            return None;
        }
        match Owner::of(&context) {
            None => Some(Hit::PassThrough(context)),
            Some(owner) => {
                let page = self.pages.get(owner, iova, access)?;
                Some(Hit::Page(context, page))
            }
        }
    }

    fn keep_context(&mut self, context: Context) {
        let same = |c: &&mut Context| c.requester == context.requester;
        if let Some(slot) = self.contexts.iter_mut().find(same) {
            *slot = context;
        } else if self.contexts.len() < CONTEXTS {
            self.contexts.push(context);
        } else {
            self.victim = (self.victim + 1) % CONTEXTS;
            self.contexts[self.victim] = context;
        }
    }
}
