//! The first stage (VT-d 4.1 §3.6), alone or nested (§3.8): a processor's page tables of four or
//! five levels, in which A and D bits are set as they are used.
//!
//! Nested, every entry's own address goes through the second stage, and so does what comes out.
//! A walk reads at most one entry for each level of the first stage, and for each of those and
//! the page one for each level of the second.
//!
//! Whoever walks holds invalidations back meanwhile: memory that is no table any more must not be
//! marked.
//!
//! A page is given as one that may be written only if its D bit is set: so whoever keeps it comes
//! back here for the first write.

use super::super::config::VtdConfig;
use super::super::memory::{GuestRam, exchange_entry, read_entry};
use super::super::reason::{Chapter, FaultReason};
use super::super::tables::level_shift;
use super::super::walk::{self, Page, Tables};
use super::tables::FirstEntry;
use crate::Access;

/// How often an entry is tried to be marked that software changes meanwhile.
const TRIES: usize = 64;

/// First-stage tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct First {
    /// The topmost table.
    pub root: u64,
    /// 4 or 5.
    pub levels: u8,
    /// Requests are a supervisor's: U/S does not count.
    pub supervisor: bool,
    /// R/W counts for a supervisor too.
    pub write_protect: bool,
}

impl First {
    /// Bits of a canonical address.
    pub fn width(self) -> u8 {
        12 + 9 * self.levels
    }
}

/// A DMA, or a part of it.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Request {
    pub iova: u64,
    pub len: u64,
    pub access: Access,
}

/// What tells canonical addresses apart: all but copies of the sign of the widest.
pub(in super::super) fn canonical_bits(iova: u64) -> u64 {
    iova & ((1 << 57) - 1)
}

/// The page of a canonical address, which may be accessed so.
pub(in super::super) fn find_page(
    memory: &GuestRam,
    config: &VtdConfig,
    (first, second): (First, Option<Tables>),
    request: Request,
) -> Result<Page, FaultReason> {
    let walk = Walk {
        memory,
        config,
        first,
        second,
    };
    let page = walk.page(request)?;
    match second {
        None => Ok(page),
        Some(second) => walk.nest(page, second, request),
    }
}

struct Walk<'a> {
    memory: &'a GuestRam,
    config: &'a VtdConfig,
    first: First,
    second: Option<Tables>,
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Place {
    /// Where to read it: behind the second stage, if there is one.
    address: u64,
    /// The second stage lets it be written.
    writable: bool,
    level: u8,
}

/// What the entries on the way allow.
#[derive(Clone, Copy)]
struct Rights {
    write: bool,
    user: bool,
}

impl Walk<'_> {
    /// Down to the page.
    fn page(&self, request: Request) -> Result<Page, FaultReason> {
        let mut table = self.first.root;
        let mut rights = Rights {
            write: true,
            user: true,
        };
        for level in (1..=self.first.levels).rev() {
            let shift = level_shift(level);
            let at = table.wrapping_add((request.iova >> shift & 0x1ff) * 8);
            let place = self.place(at, level)?;
            let entry = self.entry(place, &mut rights, request)?;
            if entry.is_leaf(level) {
                return Ok(Page {
                    iova: canonical_bits(request.iova) & u64::MAX << shift,
                    gpa: entry.address(shift),
                    shift,
                    read: true,
                    write: entry.dirty() && self.may_write(rights),
                });
            }
            table = entry.address(12);
        }
        Err(FaultReason::FirstNotPresent)
    }

    /// Where to find an entry of the first stage.
    fn place(&self, address: u64, level: u8) -> Result<Place, FaultReason> {
        let Some(second) = self.second else {
            return Ok(Place {
                address,
                writable: true,
                level,
            });
        };
        if !second.take(address) {
            return Err(FaultReason::FirstTooWide);
        }
        let page = self.behind(second, address)?;
        match (page.read, level == self.first.levels) {
            (true, _) => Ok(Place {
                address: to(page, address),
                writable: page.write,
                level,
            }),
            (false, true) => Err(FaultReason::FirstRootDenied),
            (false, false) => Err(FaultReason::FirstReadDenied),
        }
    }

    /// The second stage's page of an address that comes out of the first.
    fn behind(&self, second: Tables, address: u64) -> Result<Page, FaultReason> {
        walk::find_page(self.memory, self.config, second, address)
            .map_err(|why| Chapter::Scalable.no_page(why, Access::Read))
    }

    /// Reads an entry, checks it, and marks it as used if it is not yet. If software changes it
    /// in between, it is looked at anew.
    fn entry(
        &self,
        place: Place,
        rights: &mut Rights,
        request: Request,
    ) -> Result<FirstEntry, FaultReason> {
        let above = *rights;
        for _ in 0..TRIES {
            let entry = self.read(place)?;
            *rights = Rights {
                write: above.write && entry.write(),
                user: above.user && entry.user(),
            };
            let mut marked = entry;
            marked.set_accessed(true);
            if entry.is_leaf(place.level) {
                self.check(*rights, request.access)?;
                marked.set_dirty(entry.dirty() || request.access == Access::Write);
            }
            if marked == entry || self.mark(place, entry, marked)? {
                return Ok(marked);
            }
        }
        Err(FaultReason::FirstUpdate)
    }

    fn read(&self, place: Place) -> Result<FirstEntry, FaultReason> {
        let unreadable = match place.level == self.first.levels {
            true => FaultReason::FirstRootAccess,
            false => FaultReason::FirstAccess,
        };
        let entry = read_entry(self.memory, place.address).map(FirstEntry);
        let entry = entry.ok_or(unreadable)?;
        if !entry.present() {
            return Err(FaultReason::FirstNotPresent);
        }
        let (shift, nested) = (level_shift(place.level), self.second.is_some());
        if entry.is_reserved(place.level, shift, nested, self.config) {
            return Err(FaultReason::FirstReserved);
        }
        Ok(entry)
    }

    /// Whether all entries together allow an access.
    fn check(&self, rights: Rights, access: Access) -> Result<(), FaultReason> {
        if !rights.user && !self.first.supervisor {
            return Err(FaultReason::UserDenied);
        }
        if access == Access::Write && !self.may_write(rights) {
            return Err(FaultReason::ScalableWriteDenied);
        }
        Ok(())
    }

    fn may_write(&self, rights: Rights) -> bool {
        rights.write || self.first.supervisor && !self.first.write_protect
    }

    /// Sets A and D bits; false if the entry is another one by now.
    fn mark(&self, place: Place, old: FirstEntry, new: FirstEntry) -> Result<bool, FaultReason> {
        if !place.writable {
            return Err(FaultReason::FirstWriteDenied);
        }
        exchange_entry(self.memory, place.address, old.0, new.0).ok_or(FaultReason::FirstUpdate)
    }

    /// Takes a page of the first stage through the second: the smaller of their pages, and what
    /// both allow.
    fn nest(&self, page: Page, second: Tables, request: Request) -> Result<Page, FaultReason> {
        let address = to(page, request.iova);
        if !second.take(address) {
            return Err(FaultReason::OutputTooWide);
        }
        let behind =
            self.behind(second, address)?
                .check(request.access, request.len, Chapter::Scalable)?;
        let shift = page.shift.min(behind.shift);
        Ok(Page {
            iova: canonical_bits(request.iova) & u64::MAX << shift,
            gpa: to(behind, address) & u64::MAX << shift,
            shift,
            read: behind.read,
            write: page.write && behind.write,
        })
    }
}

/// Where in a page an address leads to.
fn to(page: Page, address: u64) -> u64 {
    page.gpa | address & ((1 << page.shift) - 1)
}
