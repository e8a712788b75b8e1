//! A unit in scalable mode, with everything on offer.

mod caches;
mod first;
mod nested;
mod orders;
mod queue;
mod reasons;
mod reasons_of_stages;
mod reference;
mod registers;

use std::ops::Deref;

use super::*;

/// Everything on, scalable mode too.
pub const SCALABLE: VtdConfig = VtdConfig {
    scalable: true,
    first_stage: true,
    ..CONFIG
};

/// P, R/W and U/S of a first-stage entry.
pub const P: u64 = 1;
pub const PW: u64 = 3;
pub const PU: u64 = 5;
pub const PWU: u64 = 7;
/// A and D.
pub const A: u64 = 1 << 5;
pub const D: u64 = 1 << 6;
/// PS.
pub const LARGE: u64 = 1 << 7;

/// PGTT, in place.
pub const FIRST: u64 = 1 << 6;
pub const SECOND: u64 = 2 << 6;
pub const NESTED: u64 = 3 << 6;
pub const PASS: u64 = 4 << 6;
/// AW of 48 bits, in place.
pub const AW48: u64 = 2 << 2;

/// Nested: where memory is for the first stage. The second stage takes it from there to 0.
pub const BEHIND: u64 = 1 << 30;

/// Turns translation on by a scalable-mode root table.
pub fn start(rig: &Rig) {
    rig.w64(offset::RTADDR, ROOT | 1 << 10);
    rig.w32(offset::GCMD, SRTP);
    rig.w32(offset::GCMD, TE);
}

/// A rig whose root table is a scalable-mode one.
pub struct Scalable {
    rig: Rig,
}

impl Deref for Scalable {
    type Target = Rig;

    fn deref(&self) -> &Rig {
        &self.rig
    }
}

impl Scalable {
    /// A unit that translates, with no tables but the root table.
    pub fn on() -> Self {
        Self::with(SCALABLE)
    }

    pub fn with(config: VtdConfig) -> Self {
        let rig = Rig::with(config);
        start(&rig);
        Self { rig }
    }

    /// Where the half of a root entry is that a requester is in.
    pub fn half_root(requester: Bdf) -> u64 {
        ROOT + u64::from(requester.bus()) * 16 + u64::from(requester.devfn() >> 7) * 8
    }

    /// Where a context entry is, in a table that is made.
    pub fn context(&self, requester: Bdf) -> u64 {
        let half = Self::half_root(requester);
        if self.peek(half) == 0 {
            self.poke(half, self.table() | 1);
        }
        (self.peek(half) & !0xfff) + u64::from(requester.devfn() & 0x7f) * 32
    }

    /// Where a requester's PASID entry is: PASID 0, in tables that are made.
    pub fn pasid(&self, requester: Bdf) -> u64 {
        let context = self.context(requester);
        if self.peek(context) & 1 == 0 {
            self.poke(context, self.table() | 1);
        }
        let directory = self.peek(context) & !0xfff;
        if self.peek(directory) & 1 == 0 {
            self.poke(directory, self.table() | 1);
        }
        self.peek(directory) & !0xfff
    }

    /// Writes a requester's PASID entry.
    pub fn set_pasid(&self, requester: Bdf, quads: [u64; 3]) {
        let at = self.pasid(requester);
        self.poke(at, 0);
        self.poke(at + 8, quads[1]);
        self.poke(at + 16, quads[2]);
        self.poke(at, quads[0]);
    }

    /// Puts a requester in a domain by second-stage tables of four levels.
    pub fn second(&self, requester: Bdf, domain: u16) -> u64 {
        let top = self.table();
        self.set_pasid(requester, [top | SECOND | AW48 | 1, domain.into(), 0]);
        top
    }

    /// Gives a requester first-stage tables of four levels.
    pub fn first(&self, requester: Bdf, domain: u16) -> u64 {
        let top = self.table();
        self.set_pasid(requester, [FIRST | 1, domain.into(), top]);
        top
    }

    /// Gives a requester first-stage tables behind second-stage tables, which map [`BEHIND`];
    /// gives the topmost of either.
    pub fn nested(&self, requester: Bdf, domain: u16) -> (u64, u64) {
        let (first, second) = (self.table(), self.table());
        for large in (0..RAM as u64).step_by(2 << 20) {
            self.poke(self.slot(second, 4, 2, BEHIND + large), large | LARGE | RW);
        }
        self.set_pasid(
            requester,
            [second | NESTED | AW48 | 1, domain.into(), first + BEHIND],
        );
        (first, second)
    }

    pub fn pass_through(&self, requester: Bdf, domain: u16) {
        self.set_pasid(requester, [PASS | AW48 | 1, domain.into(), 0]);
    }

    /// Where a first-stage entry is. Tables on the way are made; entries point to them `behind`
    /// from where they are.
    pub fn first_slot(&self, top: u64, levels: u8, level: u8, iova: u64, behind: u64) -> u64 {
        let mut table = top;
        for at in (level..=levels).rev() {
            let slot = table + (iova >> (12 + 9 * (at - 1)) & 0x1ff) * 8;
            if at == level {
                return slot;
            }
            if self.peek(slot) & 1 == 0 {
                self.poke(slot, (self.table() + behind) | PWU);
            }
            table = (self.peek(slot) & 0x000f_ffff_ffff_f000) - behind;
        }
        unreachable!("levels count down to the one asked for")
    }

    /// Maps a 4 KiB page in four levels of the first stage.
    pub fn map_first(&self, top: u64, iova: u64, gpa: u64, flags: u64) {
        self.poke(self.first_slot(top, 4, 1, iova, 0), gpa | flags);
    }

    /// The same in nested tables.
    pub fn map_nested(&self, top: u64, iova: u64, gpa: u64, flags: u64) {
        self.poke(self.first_slot(top, 4, 1, iova, BEHIND), gpa | flags);
    }

    /// Turns on the queue of wide descriptors.
    pub fn enable_wide_queue(&self) {
        self.w64(offset::IQA, QUEUE | 1 << 11);
        self.w64(offset::IQT, 0);
        let keep = self.r32(offset::GSTS) & (TE | IRE | CFI);
        self.w32(offset::GCMD, keep | QIE);
    }

    /// Puts a wide descriptor in the queue.
    pub fn submit_wide(&self, low: u64, high: u64) {
        let tail = self.r64(offset::IQT);
        for (at, quad) in (tail..).step_by(8).zip([low, high, 0, 0]) {
            self.poke(QUEUE + at, quad);
        }
        self.w64(offset::IQT, (tail + 32) % 0x1000);
        assert_eq!(self.r32(offset::FSTS) & 0x10, 0, "the queue stopped");
    }

    /// Forgets PASID entries: granularity 0 of a domain, 1 of a PASID, 3 all.
    pub fn forget_pasids(&self, granularity: u64, domain: u16, pasid: u64) {
        self.submit_wide(
            7 | granularity << 4 | u64::from(domain) << 16 | pasid << 32,
            0,
        );
    }

    /// Forgets all pages of a PASID of a domain that are not of the second stage alone.
    pub fn forget_pasid(&self, domain: u16, pasid: u64) {
        self.submit_wide(6 | 2 << 4 | u64::from(domain) << 16 | pasid << 32, 0);
    }

    /// Forgets 2 to the `mask` of those pages.
    pub fn forget_pasid_pages(&self, domain: u16, pasid: u64, iova: u64, mask: u64) {
        self.submit_wide(
            6 | 3 << 4 | u64::from(domain) << 16 | pasid << 32,
            iova & !0xfff | mask,
        );
    }

    /// Forgets contexts by the queue.
    pub fn forget_context(&self, source: Bdf) {
        self.submit_wide(0x31 | u64::from(source.requester_id()) << 32, 0);
    }
}
