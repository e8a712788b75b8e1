//! A DMA's way through the unit (VT-d 4.1 §3, §7.1.3).

use pci::Bdf;

use super::Vtd;
use super::cache::Hit;
use super::faults::Blocked;
use super::live::Mode;
use super::reason::{Chapter, FaultReason};
use super::scalable::{self, Request};
use super::walk::{Context, Denied, NoPage, Page, Stage, find_context, find_page};
use crate::{Access, Fault, INTERRUPT_RANGE as INTERRUPTS, Translation};

/// No translation. With no reason, the request is stopped and not recorded.
type Refused = Option<Denied>;

impl Vtd {
    pub(super) fn translate_request(
        &self,
        requester: Bdf,
        iova: u64,
        len: u64,
        access: Access,
    ) -> Result<Translation, Fault> {
        let mode = self.live.mode();
        if !mode.checks_dma() {
            return Ok(Translation { gpa: iova, len });
        }
        self.translate_checked(mode, requester, iova, len, access)
            .map_err(|refused| {
                if let Some(denied) = refused {
                    self.block(requester, iova, access, denied);
                }
                Fault {
                    requester,
                    address: iova,
                }
            })
    }

    fn translate_checked(
        &self,
        mode: Mode,
        requester: Bdf,
        iova: u64,
        len: u64,
        access: Access,
    ) -> Result<Translation, Refused> {
        if INTERRUPTS.contains(&iova) {
            // As it is, whatever the tables say: there is no RAM, and interrupt requests do not
            // come this way.
            let len = len.min(INTERRUPTS.end - iova);
            return Ok(Translation { gpa: iova, len });
        }
        let len = before_interrupts(iova, len);
        if !mode.translates() {
            return self.untranslated(mode, iova, len);
        }
        let miss = match self.cache.find(requester, iova, access) {
            Ok(hit) => return self.hit(mode, hit, iova, len),
            Err(miss) => miss,
        };
        let context = match miss.context {
            Some(context) => context,
            None => {
                let context = self.find_context(requester)?;
                self.cache.keep(miss.generation, context, None);
                // The domain's pages may be there although the context was not.
                if let Ok(hit) = self.cache.find(requester, iova, access) {
                    return self.hit(mode, hit, iova, len);
                }
                context
            }
        };
        let request = Request { iova, len, access };
        self.walk(mode, context, miss.generation, request)
    }

    fn hit(&self, mode: Mode, hit: Hit, iova: u64, len: u64) -> Result<Translation, Refused> {
        match hit {
            Hit::PassThrough(context) => self.passed_through(mode, &context, iova, len),
            Hit::Page(context, page) => {
                inside(page, iova, len).ok_or_else(|| Some(in_interrupts(&context)))
            }
        }
    }

    /// The requester's context, from the tables.
    pub(super) fn find_context(&self, requester: Bdf) -> Result<Context, Denied> {
        find_context(&self.memory, self.live.root(), &self.config, requester)
    }

    fn walk(
        &self,
        mode: Mode,
        context: Context,
        generation: u64,
        request: Request,
    ) -> Result<Translation, Refused> {
        if !context.marks() {
            return self.walk_in(mode, &context, request, |page| {
                self.cache.keep(generation, context, page);
            });
        }
        let held = self.cache.hold(context.requester);
        // Of before an invalidation, its tables may be anything by now.
        let context = match held.generation() == generation {
            true => context,
            false => self.find_context(context.requester)?,
        };
        self.walk_in(mode, &context, request, |page| {
            let generation = held.generation();
            drop(held);
            self.cache.keep(generation, context, page);
        })
    }

    /// Walks the tables of a context. The context stays valid whatever becomes of the page.
    fn walk_in(
        &self,
        mode: Mode,
        context: &Context,
        request: Request,
        keep: impl FnOnce(Option<Page>),
    ) -> Result<Translation, Refused> {
        let Request { iova, len, .. } = request;
        if !context.takes(iova) {
            keep(None);
            return Err(Some(context.beyond()));
        }
        if context.stage == Stage::PassThrough {
            keep(None);
            return self.passed_through(mode, context, iova, len);
        }
        let page = self.find_page(context, request);
        keep(page.ok());
        let page = page.map_err(|reason| Some(context.denies(reason)))?;
        inside(page, iova, len).ok_or_else(|| Some(in_interrupts(context)))
    }

    /// The page of a request, which may access it so. Pass-through has none.
    fn find_page(&self, context: &Context, request: Request) -> Result<Page, FaultReason> {
        let (memory, config) = (&self.memory, &self.config);
        let (first, second) = match context.stage {
            Stage::PassThrough => return Err(context.chapter.denied(request.access)),
            Stage::Tables(tables) => {
                let (chapter, access) = (context.chapter, request.access);
                return find_page(memory, config, tables, request.iova)
                    .map_err(|why| chapter.no_page(why, access))
                    .and_then(|page| page.check(access, request.len, chapter));
            }
            Stage::First(first) => (first, None),
            Stage::Nested(first, second) => (first, Some(second)),
        };
        scalable::find_page(memory, config, (first, second), request)
    }

    fn passed_through(
        &self,
        mode: Mode,
        context: &Context,
        iova: u64,
        len: u64,
    ) -> Result<Translation, Refused> {
        let room = (1 << context.width) - iova;
        self.untranslated(mode, iova, len.min(room))
    }

    /// The address is guest-physical already; protected memory is out of reach.
    fn untranslated(&self, mode: Mode, gpa: u64, len: u64) -> Result<Translation, Refused> {
        if !mode.protects() {
            return Ok(Translation { gpa, len });
        }
        let len = self.live.protected().allowed(gpa, len).ok_or(None)?;
        Ok(Translation { gpa, len })
    }

    /// Records that a requester does not reach what the tables map for it at `iova`: whoever
    /// mirrors them could not. The manual has no reason for that; to the guest it is as if an
    /// entry could not be read.
    pub(crate) fn record_unreached(&self, requester: Bdf, iova: u64) {
        if !self.live.mode().translates() {
            return;
        }
        if let Ok(context) = self.find_context(requester) {
            let why = NoPage::Access { top: false };
            let reason = context.chapter.no_page(why, Access::Read);
            let denied = context.denies(reason);
            self.block(requester, iova, Access::Read, denied);
        }
    }

    fn block(&self, source: Bdf, iova: u64, access: Access, denied: Denied) {
        if denied.fault_disable {
            return;
        }
        self.record(Blocked {
            reason: denied.reason,
            source,
            info: iova,
            read: access == Access::Read,
        });
    }
}

impl Page {
    /// The page, if it may be accessed so.
    pub(super) fn check(
        self,
        access: Access,
        len: u64,
        chapter: Chapter,
    ) -> Result<Self, FaultReason> {
        let allowed = match access {
            // A read of no length, which flushes writes, may go where writes may (CAP.ZLR).
            Access::Read => self.read || len == 0 && self.write,
            Access::Write => self.write,
        };
        if allowed {
            Ok(self)
        } else {
            Err(chapter.denied(access))
        }
    }
}

fn in_interrupts(context: &Context) -> Denied {
    context.denies(context.chapter.in_interrupts())
}

/// What of a request is in a page; nothing if that is in the interrupt address range.
fn inside(page: Page, iova: u64, len: u64) -> Option<Translation> {
    let size = 1 << page.shift;
    let offset = iova % size;
    let gpa = page.gpa + offset;
    if INTERRUPTS.contains(&gpa) {
        return None;
    }
    let len = len.min(size - offset);
    Some(Translation {
        gpa,
        len: before_interrupts(gpa, len),
    })
}

/// How many of `len` bytes come before the interrupt address range.
fn before_interrupts(address: u64, len: u64) -> u64 {
    match INTERRUPTS.start.checked_sub(address) {
        Some(room) if room > 0 => len.min(room),
        _ => len,
    }
}
