//! Random changes of a guest's tables, each announced: the host's mappings are always those
//! of the guest, page by page. In legacy mode, and in scalable mode.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::vtd::tests::ROOT;
use crate::vtd::tests::scalable::{AW48, PASS, SCALABLE, SECOND, start};

/// Pages of the domain that changes are about: around a border of 2 MiB.
const FIRST: u64 = 500;
const PAGES: u64 = 24;

#[derive(Clone, Debug)]
enum Step {
    /// Map `count` pages from `page` on to contiguous memory.
    Map {
        page: u64,
        count: u64,
        to: u64,
        flags: u64,
    },
    Unmap {
        page: u64,
        count: u64,
    },
    /// 2 MiB at 1 GiB, or nothing there.
    Large(Option<u64>),
    /// Go to the other of two domains, to pass-through, or to nothing; and back.
    Move(u8),
    Translate(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let pages = (0..PAGES, 1_u64..9);
    // Memory at both ends of RAM, so that some is not there.
    let to = prop_oneof![0x1000_u64..0x1010, 0x1ff8_u64..0x2004];
    prop_oneof![
        8 => (pages.clone(), to, 1_u64..4)
            .prop_map(|((page, count), to, flags)| Step::Map { page, count, to, flags }),
        6 => pages.prop_map(|(page, count)| Step::Unmap { page, count }),
        1 => prop_oneof![Just(None), (4_u64..20).prop_map(Some)].prop_map(Step::Large),
        1 => (0_u8..4).prop_map(Step::Move),
        1 => any::<bool>().prop_map(Step::Translate),
    ]
}

struct Run {
    s: Shadowed,
    /// The topmost tables of domains 5 and 6.
    tops: [u64; 2],
    at: usize,
    /// In scalable mode, the NIC's PASID entry.
    pasid: Option<u64>,
}

impl Run {
    fn new(scalable: bool) -> Self {
        let config = if scalable { SCALABLE } else { CONFIG };
        let s = Shadowed::off_with(config, ShadowLimits::default());
        let tops = [s.top, s.rig.table()];
        let pasid = scalable.then(|| {
            let [context, directory, pasids] = [(); 3].map(|()| s.rig.table());
            s.rig.poke(ROOT, context | 1);
            s.rig.poke(ROOT + 8, 0);
            let devfn = u64::from(NIC.devfn());
            s.rig.poke(context + devfn * 32, directory | 1);
            s.rig.poke(directory, pasids | 1);
            s.rig.poke(pasids + 8, 5);
            s.rig.poke(pasids, tops[0] | SECOND | AW48 | 1);
            pasids
        });
        s.shadow.replay().unwrap();
        Self {
            s,
            tops,
            at: 0,
            pasid,
        }
    }

    fn move_to(&mut self, to: u8) {
        if to < 2 {
            self.at = usize::from(to);
        }
        let (top, domain) = (self.tops[self.at], 5 + self.at as u16);
        let rig = &self.s.rig;
        match (self.pasid, to) {
            (None, 2) => rig.set_context(NIC, 2 << 2 | 1, 2),
            (None, 3) => rig.set_context(NIC, 0, 0),
            (None, _) => rig.attach(NIC, domain, top),
            (Some(entry), 2) => rig.poke(entry, PASS | AW48 | 1),
            (Some(entry), 3) => rig.poke(entry, 0),
            (Some(entry), _) => {
                rig.poke(entry + 8, domain.into());
                rig.poke(entry, top | SECOND | AW48 | 1);
            }
        }
    }

    fn turn_on(&self) {
        match self.pasid {
            None => self.s.rig.enable(),
            Some(_) => start(&self.s.rig),
        }
    }

    fn take(&mut self, step: Step) {
        let rig = &self.s.rig;
        let change = match step {
            Step::Map {
                page,
                count,
                to,
                flags,
            } => {
                for i in 0..count {
                    let iova = (FIRST + page + i) << 12;
                    rig.map(self.tops[self.at], iova, (to + i) << 12, flags);
                }
                self.pages(page, count)
            }
            Step::Unmap { page, count } => {
                for i in 0..count {
                    let iova = (FIRST + page + i) << 12;
                    rig.map(self.tops[self.at], iova, 0, 0);
                }
                self.pages(page, count)
            }
            Step::Large(to) => {
                let slot = rig.slot(self.tops[self.at], 4, 2, 1 << 30);
                rig.poke(slot, to.map_or(0, |to| to << 21 | 1 << 7 | RW));
                TranslationChange::Domain(5 + self.at as u16)
            }
            Step::Move(to) => {
                self.move_to(to);
                TranslationChange::Requesters {
                    source: NIC,
                    function_mask: 0,
                }
            }
            Step::Translate(on) => {
                if on {
                    self.turn_on();
                } else {
                    rig.w32(offset::GCMD, 0);
                }
                TranslationChange::All
            }
        };
        self.s.shadow.follow(change).unwrap();
        // The unit itself must not serve what it had before either.
        self.s.rig.contexts(1, 0, NIC, 0);
        self.s.rig.iotlb(1, 0, 0);
    }

    /// The smallest aligned range around some pages, as drivers announce it.
    fn pages(&self, page: u64, count: u64) -> TranslationChange {
        let (first, last) = (FIRST + page, FIRST + page + count - 1);
        let order = 64 - (first ^ last).leading_zeros();
        TranslationChange::Pages {
            domain: 5 + self.at as u16,
            iova: first >> order << order << 12,
            len: 0x1000 << order,
        }
    }

    /// The device reaches what the unit would let it reach, if that is RAM.
    fn check(&self) {
        let small = (FIRST - 2..FIRST + PAGES + 10).map(|page| page << 12);
        let large = (0..4).map(|i| (1 << 30) + i * 0x1f_f000);
        let ram = [
            0,
            RAM as u64 - 0x1000,
            RAM as u64,
            HIGH,
            HIGH + HIGH_RAM as u64,
        ];
        for iova in small.chain(large).chain(ram) {
            let read = self.s.rig.read(NIC, iova);
            let write = self.s.rig.write(NIC, iova);
            let is_ram =
                |gpa: &u64| *gpa < RAM as u64 || (HIGH..HIGH + HIGH_RAM as u64).contains(gpa);
            let wanted = read
                .or(write)
                .filter(is_ram)
                .map(|gpa| (gpa, write.is_some()));
            assert_eq!(self.s.reach(iova), wanted, "{iova:#x}");
        }
        let total: u64 = self.s.runs().iter().map(|(_, len)| len).sum();
        assert_eq!(self.s.shadow.mapped_bytes(), total);
        assert_eq!(self.s.shadow.mappings(), self.s.runs().len());
    }
}

proptest! {
    #[test]
    fn the_host_maps_what_the_guest_does(scalable: bool, steps in vec(step(), 1..40)) {
        let mut run = Run::new(scalable);
        run.check();
        for step in steps {
            run.take(step);
            run.check();
        }
        let host = run.s.host.clone();
        drop(run);
        prop_assert_eq!(host.runs(), []);
    }
}
