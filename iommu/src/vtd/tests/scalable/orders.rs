//! Random orders of what software does to its tables and what it announces, in scalable mode. A
//! translation must be one that the tables gave at some time since the last invalidations that
//! cover it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::orders::Allowed;
use super::*;

/// What a requester may be given: the second stage of domain 5, the first stage of PASID 0 of
/// domain 6, or both of domain 7.
const SPACES: usize = 3;
const DOMAINS: [u16; SPACES] = [5, 6, 7];
const REQUESTERS: [Bdf; 3] = [NIC, DISK, Bdf::new(0, 2, 1)];
const PAGES: u64 = 8;

/// Across the border of 2 MiB.
fn address(page: u64) -> u64 {
    (508 + page) << 12
}

#[derive(Clone, Debug)]
enum Step {
    /// A page of the second stage of domain 5 or 7.
    Second {
        nested: bool,
        page: u64,
        to: Option<u64>,
    },
    /// A page of the first stage of domain 6.
    First {
        page: u64,
        to: Option<u64>,
    },
    /// A page of the first stage of domain 7: it is one of the second's.
    Nested {
        page: u64,
        to: Option<u64>,
    },
    Attach {
        requester: usize,
        space: usize,
    },
    Access {
        requester: usize,
        page: u64,
    },
    InvalidatePages {
        space: usize,
        page: u64,
        mask: u64,
    },
    InvalidatePasidPages {
        space: usize,
        page: u64,
        mask: u64,
    },
    InvalidatePasid {
        space: usize,
    },
    InvalidateDomain {
        space: usize,
    },
    InvalidateAll,
    /// By PASID, or all of the domain.
    ForgetEntries {
        space: usize,
        all: bool,
    },
    ForgetAllEntries,
    ForgetContext {
        requester: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (space, requester, page) = (0..SPACES, 0..REQUESTERS.len(), 0..PAGES);
    let to = || prop_oneof![1 => Just(None), 2 => (1_u64..1000).prop_map(|to| Some(to << 12))];
    let inner = prop_oneof![1 => Just(None), 3 => (0..PAGES).prop_map(Some)];
    let pages = (space.clone(), page.clone(), 0_u64..4);
    prop_oneof![
        6 => (any::<bool>(), page.clone(), to())
            .prop_map(|(nested, page, to)| Step::Second { nested, page, to }),
        4 => (page.clone(), to()).prop_map(|(page, to)| Step::First { page, to }),
        4 => (page.clone(), inner).prop_map(|(page, to)| Step::Nested { page, to }),
        3 => (requester.clone(), space.clone())
            .prop_map(|(requester, space)| Step::Attach { requester, space }),
        24 => (requester.clone(), page)
            .prop_map(|(requester, page)| Step::Access { requester, page }),
        3 => pages.clone()
            .prop_map(|(space, page, mask)| Step::InvalidatePages { space, page, mask }),
        3 => pages
            .prop_map(|(space, page, mask)| Step::InvalidatePasidPages { space, page, mask }),
        1 => space.clone().prop_map(|space| Step::InvalidatePasid { space }),
        1 => space.clone().prop_map(|space| Step::InvalidateDomain { space }),
        1 => Just(Step::InvalidateAll),
        2 => (space, any::<bool>()).prop_map(|(space, all)| Step::ForgetEntries { space, all }),
        1 => Just(Step::ForgetAllEntries),
        2 => requester.prop_map(|requester| Step::ForgetContext { requester }),
    ]
}

struct Run {
    rig: Scalable,
    /// PASID entries of the spaces.
    entries: [[u64; 3]; SPACES],
    seconds: [u64; SPACES],
    firsts: [u64; SPACES],
    /// Pages of either stage, by space.
    second: Allowed<(usize, u64), Option<u64>>,
    first: Allowed<(usize, u64), Option<u64>>,
    attached: Allowed<usize, usize>,
}

impl Run {
    fn new() -> Self {
        let rig = Scalable::on();
        rig.enable_wide_queue();
        let alone = rig.second(NIC, DOMAINS[0]);
        let first = rig.first(NIC, DOMAINS[1]);
        let (inner, outer) = rig.nested(NIC, DOMAINS[2]);
        let did = |space: usize| u64::from(DOMAINS[space]);
        let mut run = Self {
            entries: [
                [alone | SECOND | AW48 | 1, did(0), 0],
                [FIRST | 1, did(1), first],
                [outer | NESTED | AW48 | 1, did(2), inner + BEHIND],
            ],
            seconds: [alone, 0, outer],
            firsts: [0, first, inner],
            rig,
            second: Allowed(BTreeMap::new()),
            first: Allowed(BTreeMap::new()),
            attached: Allowed(BTreeMap::new()),
        };
        for (space, page) in (0..SPACES).flat_map(|s| (0..PAGES).map(move |p| (s, p))) {
            run.second.set((space, page), None);
            run.first.set((space, page), None);
        }
        for requester in 0..REQUESTERS.len() {
            run.attach(requester, requester);
        }
        run
    }

    fn attach(&mut self, requester: usize, space: usize) {
        self.rig
            .set_pasid(REQUESTERS[requester], self.entries[space]);
        self.attached.set(requester, space);
    }

    fn set_first(&mut self, space: usize, page: u64, entry: Option<u64>) {
        let behind = if space == 2 { BEHIND } else { 0 };
        let top = self.firsts[space];
        let slot = self.rig.first_slot(top, 4, 1, address(page), behind);
        self.rig.poke(slot, entry.map_or(0, |to| to | PWU));
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Second { nested, page, to } => {
                let space = if nested { 2 } else { 0 };
                let entry = to.map_or(0, |to| to | RW);
                self.rig.map(self.seconds[space], address(page), entry, 0);
                self.second.set((space, page), to);
            }
            Step::First { page, to } => {
                self.set_first(1, page, to);
                self.first.set((1, page), to);
            }
            Step::Nested { page, to } => {
                self.set_first(2, page, to.map(address));
                self.first.set((2, page), to);
            }
            Step::Attach { requester, space } => self.attach(requester, space),
            Step::Access { requester, page } => self.access(requester, page),
            _ => self.invalidate(step),
        }
    }

    /// A page may be given in a space if it was there since the invalidations; it may be
    /// missing only if it is missing now, as what is not there is not cached.
    fn may(&self, space: usize, page: u64, got: Option<u64>) -> bool {
        let (first, second) = ((space, page), |page| (space, page));
        match (space, got) {
            (0, Some(_)) => self.second.may(second(page)).contains(&got),
            (0, None) => self.second.now(second(page)).is_none(),
            (1, Some(_)) => self.first.may(first).contains(&got),
            (1, None) => self.first.now(first).is_none(),
            (_, Some(_)) => {
                let between = self.first.may(first).iter().flatten();
                between
                    .map(|&page| self.second.may(second(page)))
                    .any(|may| may.contains(&got))
            }
            (_, None) => {
                let between = self.first.now(first);
                between.is_none_or(|page| self.second.now(second(page)).is_none())
            }
        }
    }

    fn access(&self, requester: usize, page: u64) {
        let got = self.rig.read(REQUESTERS[requester], address(page));
        self.rig.take_faults();
        let mut spaces = self.attached.may(requester).iter();
        let allowed = spaces.any(|&space| self.may(space, page, got));
        assert!(allowed, "requester {requester} page {page}: {got:x?}");
    }

    fn invalidate(&mut self, step: Step) {
        let rig = &self.rig;
        let did = |space: usize| u64::from(DOMAINS[space]) << 16;
        match step {
            Step::InvalidatePages { space, page, mask } => {
                rig.submit_wide(0x32 | did(space), address(page) & !0xfff | mask);
                self.second
                    .invalidate(|&(s, p), _| s == space && covers(page, mask, p));
            }
            Step::InvalidatePasidPages { space, page, mask } => {
                rig.forget_pasid_pages(DOMAINS[space], 0, address(page), mask);
                self.first
                    .invalidate(|&(s, p), _| s == space && covers(page, mask, p));
            }
            Step::InvalidatePasid { space } => {
                rig.forget_pasid(DOMAINS[space], 0);
                self.first.invalidate(|&(s, _), _| s == space);
            }
            Step::InvalidateDomain { space } => {
                rig.submit_wide(0x22 | did(space), 0);
                self.second.invalidate(|&(s, _), _| s == space);
            }
            Step::InvalidateAll => {
                rig.submit_wide(0x12, 0);
                self.first.invalidate(|_, _| true);
                self.second.invalidate(|_, _| true);
            }
            Step::ForgetEntries { space, all } => {
                rig.forget_pasids(u64::from(!all), DOMAINS[space], 0);
                // Only if the stale one is surely of that domain is it gone for sure.
                let sure = |_: &usize, may: &BTreeSet<usize>| may.iter().all(|&s| s == space);
                self.attached.invalidate(sure);
            }
            Step::ForgetAllEntries => {
                rig.forget_pasids(3, 0, 0);
                self.attached.invalidate(|_, _| true);
            }
            Step::ForgetContext { requester } => {
                // With the entry of its PASID: what is kept of one is kept of both.
                rig.forget_context(REQUESTERS[requester]);
                self.attached.invalidate(|&r, _| r == requester);
            }
            _ => {}
        }
    }
}

fn covers(page: u64, mask: u64, other: u64) -> bool {
    address(page) >> 12 >> mask == address(other) >> 12 >> mask
}

proptest! {
    #[test]
    fn what_is_gone_is_never_served(steps in vec(step(), 1..200)) {
        let mut run = Run::new();
        for step in steps {
            run.take(step);
        }
    }
}
