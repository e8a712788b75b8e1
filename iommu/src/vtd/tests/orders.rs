//! Random orders of what software does to its tables and what it announces. A translation
//! must be one that the tables gave at some time since the last invalidation that covers it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const DOMAINS: [u16; 3] = [5, 6, 72];
const REQUESTERS: [Bdf; 3] = [NIC, DISK, Bdf::new(0, 2, 1)];
const PAGES: u64 = 12;

/// Pages 0 to 7 are in one table, 8 to 11 in another, across the border of 2 MiB.
fn address(page: u64) -> u64 {
    (504 + page) << 12
}

#[derive(Clone, Debug)]
enum Step {
    Map {
        domain: usize,
        page: u64,
        to: u64,
    },
    Unmap {
        domain: usize,
        page: u64,
    },
    /// All pages of the second table.
    UnmapTable {
        domain: usize,
    },
    Attach {
        requester: usize,
        domain: usize,
    },
    Access {
        requester: usize,
        page: u64,
    },
    InvalidatePages {
        domain: usize,
        page: u64,
        mask: u64,
    },
    InvalidateDomain {
        domain: usize,
    },
    InvalidateAll,
    ForgetContext {
        requester: usize,
        mask: u64,
    },
    ForgetDomainContexts {
        domain: usize,
    },
    ForgetContexts,
}

fn step() -> impl Strategy<Value = Step> {
    let (domain, requester) = (0..DOMAINS.len(), 0..REQUESTERS.len());
    let page = 0..PAGES;
    prop_oneof![
        6 => (domain.clone(), page.clone(), 1_u64..1000)
            .prop_map(|(domain, page, to)| Step::Map { domain, page, to: to << 12 }),
        4 => (domain.clone(), page.clone())
            .prop_map(|(domain, page)| Step::Unmap { domain, page }),
        1 => domain.clone().prop_map(|domain| Step::UnmapTable { domain }),
        3 => (requester.clone(), domain.clone())
            .prop_map(|(requester, domain)| Step::Attach { requester, domain }),
        20 => (requester.clone(), page.clone())
            .prop_map(|(requester, page)| Step::Access { requester, page }),
        4 => (domain.clone(), page, 0_u64..4)
            .prop_map(|(domain, page, mask)| Step::InvalidatePages { domain, page, mask }),
        1 => domain.clone().prop_map(|domain| Step::InvalidateDomain { domain }),
        1 => Just(Step::InvalidateAll),
        2 => (requester, 0_u64..4)
            .prop_map(|(requester, mask)| Step::ForgetContext { requester, mask }),
        1 => domain.prop_map(|domain| Step::ForgetDomainContexts { domain }),
        1 => Just(Step::ForgetContexts),
    ]
}

/// What may be served: all that was true since the last invalidation, what is true last.
pub(super) struct Allowed<K, V>(pub BTreeMap<K, (BTreeSet<V>, V)>);

impl<K: Ord + Copy, V: Ord + Copy> Allowed<K, V> {
    pub fn set(&mut self, key: K, value: V) {
        let entry = self.0.entry(key).or_insert((BTreeSet::new(), value));
        entry.0.insert(value);
        entry.1 = value;
    }

    pub fn invalidate(&mut self, which: impl Fn(&K, &BTreeSet<V>) -> bool) {
        for (key, (may, now)) in &mut self.0 {
            if which(key, may) {
                *may = BTreeSet::from([*now]);
            }
        }
    }

    pub fn may(&self, key: K) -> &BTreeSet<V> {
        &self.0[&key].0
    }

    pub fn now(&self, key: K) -> V {
        self.0[&key].1
    }
}

struct Run {
    rig: Rig,
    tops: [u64; DOMAINS.len()],
    pages: Allowed<(usize, u64), Option<u64>>,
    contexts: Allowed<usize, usize>,
}

impl Run {
    fn new() -> Self {
        let rig = Rig::on();
        let tops = DOMAINS.map(|_| rig.table());
        let mut run = Self {
            rig,
            tops,
            pages: Allowed(BTreeMap::new()),
            contexts: Allowed(BTreeMap::new()),
        };
        for domain in 0..DOMAINS.len() {
            for page in 0..PAGES {
                run.pages.set((domain, page), None);
            }
        }
        for requester in 0..REQUESTERS.len() {
            run.take(Step::Attach {
                requester,
                domain: requester,
            });
        }
        run.rig.enable_queue();
        run
    }

    fn slot(&self, domain: usize, page: u64) -> u64 {
        self.rig.slot(self.tops[domain], 4, 1, address(page))
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Map { domain, page, to } => {
                self.rig.poke(self.slot(domain, page), to | RW);
                self.pages.set((domain, page), Some(to));
            }
            Step::Unmap { domain, page } => {
                self.rig.poke(self.slot(domain, page), 0);
                self.pages.set((domain, page), None);
            }
            Step::UnmapTable { domain } => {
                let slot = self.rig.slot(self.tops[domain], 4, 2, address(8));
                self.rig.poke(slot, 0);
                for page in 8..PAGES {
                    self.pages.set((domain, page), None);
                }
            }
            Step::Attach { requester, domain } => {
                let top = self.tops[domain];
                self.rig.attach(REQUESTERS[requester], DOMAINS[domain], top);
                self.contexts.set(requester, domain);
            }
            Step::Access { requester, page } => self.access(requester, page),
            _ => self.invalidate(step),
        }
    }

    fn access(&self, requester: usize, page: u64) {
        let got = self.rig.read(REQUESTERS[requester], address(page));
        self.rig.take_faults();
        let domains = self.contexts.may(requester);
        let allowed = domains.iter().any(|&domain| match got {
            Some(_) => self.pages.may((domain, page)).contains(&got),
            // What is not there is not cached.
            None => self.pages.now((domain, page)).is_none(),
        });
        assert!(allowed, "requester {requester} page {page}: {got:x?}");
    }

    fn invalidate(&mut self, step: Step) {
        let rig = &self.rig;
        match step {
            Step::InvalidatePages { domain, page, mask } => {
                let first = address(page) >> 12 >> mask << mask;
                rig.submit(
                    0x32 | u64::from(DOMAINS[domain]) << 16,
                    address(page) | mask,
                );
                self.pages.invalidate(|&(d, p), _| {
                    let number = address(p) >> 12;
                    d == domain && (first..first + (1 << mask)).contains(&number)
                });
            }
            Step::InvalidateDomain { domain } => {
                rig.submit(0x22 | u64::from(DOMAINS[domain]) << 16, 0);
                self.pages.invalidate(|&(d, _), _| d == domain);
            }
            Step::InvalidateAll => {
                rig.submit(0x12, 0);
                self.pages.invalidate(|_, _| true);
            }
            Step::ForgetContext { requester, mask } => {
                let source = REQUESTERS[requester];
                let id = u64::from(source.requester_id());
                rig.submit(0x31 | id << 32 | mask << 48, 0);
                self.contexts.invalidate(|&r, _| r == requester);
            }
            Step::ForgetDomainContexts { domain } => {
                rig.submit(0x21 | u64::from(DOMAINS[domain]) << 16, 0);
                // Only if the stale one is surely of that domain is it gone for sure.
                self.contexts
                    .invalidate(|_, may| may.iter().all(|&d| d == domain));
            }
            Step::ForgetContexts => {
                rig.submit(0x11, 0);
                self.contexts.invalidate(|_, _| true);
            }
            _ => {}
        }
    }
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
