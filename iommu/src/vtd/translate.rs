//! A DMA's way through the unit (VT-d 4.1 §3, §7.1.3).

use std::ops::Range;

use pci::Bdf;

use super::Vtd;
use super::cache::Hit;
use super::faults::{Blocked, FaultReason};
use super::live::Mode;
use super::walk::{Context, Denied, NoPage, Page, Stage, find_context, find_page};
use crate::{Access, Fault, Translation};

/// Writes here are interrupt requests, whatever the tables say (VT-d 4.1 §3.15).
pub(super) const INTERRUPTS: Range<u64> = 0xfee0_0000..0xfef0_0000;

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
            // As it is: there is no RAM, and who sends messages does not come this way.
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
        self.walk(mode, &context, miss.generation, iova, len, access)
    }

    fn hit(&self, mode: Mode, hit: Hit, iova: u64, len: u64) -> Result<Translation, Refused> {
        match hit {
            Hit::PassThrough(context) => self.passed_through(mode, &context, iova, len),
            Hit::Page(context, page) => {
                inside(page, iova, len).map_err(|reason| Some(context.denies(reason)))
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
        context: &Context,
        generation: u64,
        iova: u64,
        len: u64,
        access: Access,
    ) -> Result<Translation, Refused> {
        if !context.takes(iova) {
            self.cache.keep(generation, *context, None);
            return Err(Some(context.denies(FaultReason::AddressTooWide)));
        }
        let Stage::Tables { root, levels } = context.stage else {
            self.cache.keep(generation, *context, None);
            return self.passed_through(mode, context, iova, len);
        };
        let page = find_page(&self.memory, &self.config, root, levels, iova)
            .map_err(|why| why.reason(access))
            .and_then(|page| page.check(access, len));
        // The context stays valid whatever became of the page.
        self.cache.keep(generation, *context, page.ok());
        page.and_then(|page| inside(page, iova, len))
            .map_err(|reason| Some(context.denies(reason)))
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
            let denied = context.denies(FaultReason::PageTableAccess);
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

impl NoPage {
    fn reason(self, access: Access) -> FaultReason {
        match self {
            Self::NotPresent => denied_access(access),
            Self::Access => FaultReason::PageTableAccess,
            Self::Reserved => FaultReason::PageTableReserved,
        }
    }
}

impl Page {
    fn check(self, access: Access, len: u64) -> Result<Self, FaultReason> {
        let allowed = match access {
            // A read of no length, which flushes writes, may go where writes may (CAP.ZLR).
            Access::Read => self.read || len == 0 && self.write,
            Access::Write => self.write,
        };
        if allowed {
            Ok(self)
        } else {
            Err(denied_access(access))
        }
    }
}

fn denied_access(access: Access) -> FaultReason {
    match access {
        Access::Read => FaultReason::ReadDenied,
        Access::Write => FaultReason::WriteDenied,
    }
}

/// What of a request is in a page.
fn inside(page: Page, iova: u64, len: u64) -> Result<Translation, FaultReason> {
    let offset = iova - page.iova;
    let gpa = page.gpa + offset;
    if INTERRUPTS.contains(&gpa) {
        return Err(FaultReason::OutputInterruptRange);
    }
    let len = len.min((1 << page.shift) - offset);
    Ok(Translation {
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
