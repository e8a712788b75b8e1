//! What stays until it is invalidated, and what goes when it is (VT-d 4.1 §6.2, §6.5).

use super::super::cache::{Cache, PageScope};
use super::super::interrupts::EntryCache;
use super::super::reason::Chapter;
use super::super::walk::{Context, Page, Stage, Tables};
use super::*;

/// What is invalidated, by registers or by the queue.
#[derive(Clone, Copy)]
enum Invalidate {
    Contexts {
        granularity: u64,
        domain: u16,
        source: Bdf,
        mask: u64,
    },
    Pages {
        granularity: u64,
        domain: u16,
        address: u64,
    },
}

const GLOBAL: u64 = 1;
const DOMAIN: u64 = 2;
const SELECTIVE: u64 = 3;

fn contexts(granularity: u64, domain: u16, source: Bdf, mask: u64) -> Invalidate {
    Invalidate::Contexts {
        granularity,
        domain,
        source,
        mask,
    }
}

fn pages(granularity: u64, domain: u16, address: u64) -> Invalidate {
    Invalidate::Pages {
        granularity,
        domain,
        address,
    }
}

fn invalidate(rig: &Rig, queued: bool, what: Invalidate) {
    match (queued, what) {
        (
            false,
            Invalidate::Contexts {
                granularity,
                domain,
                source,
                mask,
            },
        ) => rig.contexts(granularity, domain, source, mask),
        (
            false,
            Invalidate::Pages {
                granularity,
                domain,
                address,
            },
        ) => rig.iotlb(granularity, domain, address),
        (
            true,
            Invalidate::Contexts {
                granularity,
                domain,
                source,
                mask,
            },
        ) => {
            let source = u64::from(source.requester_id());
            let low = 1 | granularity << 4 | u64::from(domain) << 16;
            rig.submit(low | source << 32 | mask << 48, 0);
        }
        (
            true,
            Invalidate::Pages {
                granularity,
                domain,
                address,
            },
        ) => {
            let low = 2 | granularity << 4 | u64::from(domain) << 16;
            rig.submit(low, address);
        }
    }
}

/// Runs a test with registers and with the queue. The NIC is in domain 5, the disk in 6;
/// each has pages 0 to 63 mapped far up, and a 2 MiB page at 1 GiB.
fn both(test: impl Fn(&Rig, &dyn Fn(Invalidate))) {
    for queued in [false, true] {
        let rig = Rig::on();
        for (requester, domain) in [(NIC, 5), (DISK, 6)] {
            let top = rig.domain(requester, domain);
            for page in 0..64 {
                rig.map(top, page << 12, 0x10_0000_0000 | page << 12, RW);
            }
            let slot = rig.slot(top, 4, 2, 1 << 30);
            rig.poke(slot, 0x20_0000_0000 | 1 << 7 | RW);
        }
        if queued {
            rig.enable_queue();
        }
        test(&rig, &|what| invalidate(&rig, queued, what));
    }
}

fn top(rig: &Rig, requester: Bdf) -> u64 {
    rig.peek(Rig::context_entry(requester)) & !0xfff
}

/// Loads what is mapped at `iova`, and then unmaps it in the tables.
fn load_and_unmap(rig: &Rig, requester: Bdf, iova: u64) {
    assert!(rig.read(requester, iova).is_some(), "mapped");
    let level = if iova < 1 << 30 { 1 } else { 2 };
    rig.poke(rig.slot(top(rig, requester), 4, level, iova), 0);
}

fn cached(rig: &Rig, requester: Bdf, iova: u64) -> bool {
    let there = rig.read(requester, iova).is_some();
    rig.take_faults();
    there
}

#[test]
fn a_page_is_served_until_it_is_invalidated() {
    both(|rig, invalidate| {
        load_and_unmap(rig, NIC, 0x4000);
        for _ in 0..3 {
            assert!(cached(rig, NIC, 0x4000));
        }
        invalidate(pages(SELECTIVE, 5, 0x4000));
        assert!(!cached(rig, NIC, 0x4000));
    });
}

#[test]
fn a_page_that_moved_is_served_where_it_was() {
    both(|rig, invalidate| {
        assert_eq!(rig.read(NIC, 0x4000), Some(0x10_0000_4000));
        rig.map(top(rig, NIC), 0x4000, 0x8000, RW);
        assert_eq!(rig.read(NIC, 0x4000), Some(0x10_0000_4000));
        invalidate(pages(DOMAIN, 5, 0));
        assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    });
}

#[test]
fn page_selective_invalidation_leaves_other_pages() {
    both(|rig, invalidate| {
        for page in 0..64 {
            load_and_unmap(rig, NIC, page << 12);
        }
        // AM 2: four pages, whichever of them is named.
        invalidate(pages(SELECTIVE, 5, 0xe000 | 2));
        for page in 0..64 {
            let gone = (12..16).contains(&page);
            assert_eq!(cached(rig, NIC, page << 12), !gone, "{page}");
        }
    });
}

#[test]
fn every_address_mask_covers_its_pages() {
    for mask in 0..=18 {
        let rig = Rig::on();
        let top = rig.domain(NIC, 5);
        let len = 0x1000_u64 << mask;
        let base = 4 * len;
        let probes = [base - 0x1000, base, base + len - 0x1000, base + len];
        for iova in probes {
            rig.map(top, iova, iova, RW);
            rig.read(NIC, iova).unwrap();
            rig.poke(rig.slot(top, 4, 1, iova), 0);
        }
        rig.iotlb(3, 5, base | mask);
        let left = probes.map(|iova| cached(&rig, NIC, iova));
        assert_eq!(
            left,
            [true, mask == 0 && probes[1] != probes[2], false, true]
        );
    }
}

#[test]
fn page_selective_invalidation_takes_the_large_page_around_it() {
    both(|rig, invalidate| {
        load_and_unmap(rig, NIC, 1 << 30);
        invalidate(pages(SELECTIVE, 5, (1 << 30) + 0x20_0000));
        assert!(cached(rig, NIC, 1 << 30), "the page after it");
        invalidate(pages(SELECTIVE, 5, (1 << 30) + 0x1f_f000));
        assert!(!cached(rig, NIC, 1 << 30));
    });
}

#[test]
fn the_invalidation_hint_keeps_no_leaf() {
    both(|rig, invalidate| {
        load_and_unmap(rig, NIC, 0x4000);
        invalidate(pages(SELECTIVE, 5, 0x4000 | 1 << 6));
        assert!(!cached(rig, NIC, 0x4000));
    });
}

#[test]
fn without_the_hint_a_changed_table_is_seen() {
    both(|rig, invalidate| {
        assert!(cached(rig, NIC, 0x4000));
        rig.poke(rig.slot(top(rig, NIC), 4, 3, 0x4000), 0);
        assert!(cached(rig, NIC, 0x4000));
        invalidate(pages(SELECTIVE, 5, 0x4000));
        assert!(!cached(rig, NIC, 0x4000));
    });
}

#[test]
fn domain_selective_invalidation_leaves_other_domains() {
    both(|rig, invalidate| {
        for requester in [NIC, DISK] {
            load_and_unmap(rig, requester, 0x4000);
            load_and_unmap(rig, requester, 1 << 30);
        }
        invalidate(pages(DOMAIN, 5, 0));
        assert!(!cached(rig, NIC, 0x4000) && !cached(rig, NIC, 1 << 30));
        assert!(cached(rig, DISK, 0x4000) && cached(rig, DISK, 1 << 30));
        invalidate(pages(SELECTIVE, 5, 0x4000));
        assert!(cached(rig, DISK, 0x4000));
        invalidate(pages(DOMAIN, 6, 0));
        assert!(!cached(rig, DISK, 0x4000) && !cached(rig, DISK, 1 << 30));
    });
}

#[test]
fn global_invalidation_leaves_nothing() {
    both(|rig, invalidate| {
        for requester in [NIC, DISK] {
            load_and_unmap(rig, requester, 0x4000);
        }
        invalidate(pages(GLOBAL, 0, 0));
        assert!(!cached(rig, NIC, 0x4000));
        assert!(!cached(rig, DISK, 0x4000));
    });
}

#[test]
fn requesters_of_a_domain_lose_its_pages_together() {
    both(|rig, invalidate| {
        let others: Vec<_> = (0..32).map(|i| Bdf::new(7, i, 0)).collect();
        for &other in &others {
            rig.attach(other, 5, top(rig, NIC));
            assert!(cached(rig, other, 0x4000));
        }
        load_and_unmap(rig, NIC, 0x4000);
        assert!(others.iter().all(|&o| cached(rig, o, 0x4000)));
        invalidate(pages(SELECTIVE, 5, 0x4000));
        assert!(others.iter().all(|&o| !cached(rig, o, 0x4000)));
    });
}

#[test]
fn a_context_is_served_until_it_is_invalidated() {
    let all = [
        contexts(GLOBAL, 0, NIC, 0),
        contexts(DOMAIN, 5, DISK, 0),
        contexts(SELECTIVE, 5, NIC, 0),
    ];
    for what in all {
        both(|rig, invalidate| {
            assert!(cached(rig, NIC, 0x4000));
            rig.poke(Rig::context_entry(NIC), 0);
            assert!(cached(rig, NIC, 0x4000));
            assert!(cached(rig, NIC, 0x5000), "a page not loaded before");
            invalidate(what);
            assert!(!cached(rig, NIC, 0x4000));
        });
    }
}

#[test]
fn context_invalidation_leaves_other_contexts() {
    let others = [
        contexts(DOMAIN, 6, NIC, 0),
        contexts(SELECTIVE, 6, DISK, 3),
        contexts(SELECTIVE, 5, Bdf::new(0, 2, 1), 0),
    ];
    for what in others {
        both(|rig, invalidate| {
            assert!(cached(rig, NIC, 0x4000));
            rig.poke(Rig::context_entry(NIC), 0);
            invalidate(what);
            assert!(cached(rig, NIC, 0x4000));
        });
    }
}

#[test]
fn the_function_mask_leaves_out_high_function_bits() {
    // FM, and the functions it takes when function 0 is named.
    let masks: [(u64, &[u8]); 4] = [
        (0, &[0]),
        (1, &[0, 4]),
        (2, &[0, 2, 4, 6]),
        (3, &[0, 1, 2, 3, 4, 5, 6, 7]),
    ];
    for (mask, taken) in masks {
        both(|rig, invalidate| {
            for function in 0..8 {
                let requester = Bdf::new(0, 9, function);
                rig.attach(requester, 5, top(rig, NIC));
                assert!(cached(rig, requester, 0x4000));
                rig.poke(Rig::context_entry(requester), 0);
            }
            invalidate(contexts(SELECTIVE, 5, Bdf::new(0, 9, 0), mask));
            for function in 0..8 {
                let there = cached(rig, Bdf::new(0, 9, function), 0x4000);
                assert_eq!(there, !taken.contains(&function), "{mask} {function}");
            }
        });
    }
}

#[test]
fn pages_outlive_their_context_and_are_the_domains() {
    both(|rig, invalidate| {
        load_and_unmap(rig, NIC, 0x4000);
        // The NIC moves to the disk's domain, where the page is.
        rig.attach(NIC, 6, top(rig, DISK));
        invalidate(contexts(SELECTIVE, 5, NIC, 0));
        assert!(cached(rig, NIC, 0x4000));
        // It moves back: the page of domain 5 was never invalidated.
        rig.attach(NIC, 5, rig.table());
        invalidate(contexts(SELECTIVE, 6, NIC, 0));
        assert!(cached(rig, NIC, 0x4000));
        invalidate(pages(DOMAIN, 5, 0));
        assert!(!cached(rig, NIC, 0x4000));
    });
}

#[test]
fn what_is_not_present_is_never_cached() {
    for caching_mode in [false, true] {
        let rig = Rig::with(VtdConfig {
            caching_mode,
            ..CONFIG
        });
        rig.enable();
        assert!(!cached(&rig, NIC, 0x4000));
        rig.set_context(NIC, 0, 0);
        assert!(!cached(&rig, NIC, 0x4000));
        rig.set_context(NIC, 0xff1, 2);
        assert!(!cached(&rig, NIC, 0x4000));
        let top = rig.domain(NIC, 5);
        assert!(!cached(&rig, NIC, 0x4000));
        rig.map(top, 0x4000, 0x8000 | 1 << 62, RW);
        assert!(!cached(&rig, NIC, 0x4000));
        rig.map(top, 0x4000, 0x8000, R);
        assert!(cached(&rig, NIC, 0x4000));
        assert_eq!(rig.write(NIC, 0x4000), None);
        // More is allowed: that need not be announced.
        rig.map(top, 0x4000, 0x8000, RW);
        assert_eq!(rig.write(NIC, 0x4000), Some(0x8000));
    }
}

#[test]
fn less_permission_counts_once_it_is_announced() {
    both(|rig, invalidate| {
        assert!(rig.write(NIC, 0x4000).is_some());
        rig.map(top(rig, NIC), 0x4000, 0x8000, R);
        assert!(rig.write(NIC, 0x4000).is_some());
        invalidate(pages(SELECTIVE, 5, 0x4000));
        assert!(rig.write(NIC, 0x4000).is_none());
        assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    });
}

#[test]
fn setting_the_root_table_pointer_forgets_everything() {
    both(|rig, _| {
        load_and_unmap(rig, NIC, 0x4000);
        rig.poke(Rig::context_entry(DISK), 0);
        let keep = rig.r32(offset::GSTS) & (TE | QIE);
        rig.w32(offset::GCMD, keep | SRTP);
        assert!(!cached(rig, NIC, 0x4000));
        assert!(!cached(rig, DISK, 0x4000));
    });
}

#[test]
fn the_sink_hears_of_every_invalidation() {
    let expected = [
        (contexts(GLOBAL, 0, NIC, 0), TranslationChange::All),
        (contexts(DOMAIN, 7, NIC, 0), TranslationChange::Domain(7)),
        (
            contexts(SELECTIVE, 7, NIC, 2),
            TranslationChange::Requesters {
                source: NIC,
                function_mask: 2,
            },
        ),
        (pages(GLOBAL, 0, 0), TranslationChange::All),
        (pages(DOMAIN, 7, 0), TranslationChange::Domain(7)),
        (
            pages(SELECTIVE, 7, 0x7000 | 1),
            TranslationChange::Pages {
                domain: 7,
                iova: 0x6000,
                len: 0x2000,
            },
        ),
    ];
    both(|rig, invalidate| {
        for (what, change) in expected {
            rig.take_translations();
            invalidate(what);
            assert_eq!(rig.take_translations(), [change]);
        }
    });
}

#[test]
fn a_change_concerns_its_requesters_and_domain() {
    let function = |f| Bdf::new(0, 2, f);
    let requesters = TranslationChange::Requesters {
        source: function(0),
        function_mask: 1,
    };
    assert!(requesters.concerns(function(4), None));
    assert!(!requesters.concerns(function(2), Some(1)));
    assert!(TranslationChange::Domain(1).concerns(NIC, Some(1)));
    assert!(!TranslationChange::Domain(1).concerns(NIC, Some(2)));
    assert!(!TranslationChange::Domain(1).concerns(NIC, None));
    assert!(TranslationChange::All.concerns(NIC, None));
}

#[test]
fn more_pages_and_contexts_than_there_is_room_for_do_no_harm() {
    let rig = Rig::on();
    let top = rig.table();
    for page in 0..4096 {
        rig.map(top, page << 12, page << 12, RW);
    }
    for id in (0..0x1000).step_by(3) {
        rig.attach(Bdf::from_requester_id(id), 5, top);
    }
    for round in 0..2 {
        for i in 0..4096_u64 {
            let requester = Bdf::from_requester_id((i % 0x555) as u16 * 3);
            let page = (i * 7 + round) % 4096;
            assert_eq!(rig.read(requester, page << 12), Some(page << 12));
        }
    }
    rig.poke(top, 0);
    rig.iotlb(2, 5, 0);
    for i in 0..4096_u64 {
        let requester = Bdf::from_requester_id((i % 0x555) as u16 * 3);
        assert_eq!(rig.read(requester, i << 12), None);
    }
}

#[test]
fn a_domain_does_not_lose_the_pages_of_another() {
    // Domains whose pages are in the same places of the IOTLB, and one requester in both.
    let rig = Rig::on();
    let tops = [5, 5 + 256].map(|domain| {
        let top = rig.domain(NIC, domain);
        rig.map(top, 0x4000, 0x8000, RW);
        rig.contexts(GLOBAL, 0, NIC, 0);
        load_and_unmap(&rig, NIC, 0x4000);
        top
    });
    rig.iotlb(SELECTIVE, 5 + 256, 0x4000);
    assert!(!cached(&rig, NIC, 0x4000));
    rig.attach(NIC, 5, tops[0]);
    rig.contexts(GLOBAL, 0, NIC, 0);
    assert!(cached(&rig, NIC, 0x4000));
}

#[test]
fn turning_translation_off_forgets_everything() {
    both(|rig, _| {
        load_and_unmap(rig, NIC, 0x4000);
        let queue = rig.r32(offset::GSTS) & QIE;
        rig.w32(offset::GCMD, queue);
        rig.w32(offset::GCMD, queue | TE);
        assert!(!cached(rig, NIC, 0x4000));
    });
}

#[test]
fn what_an_invalidation_overtakes_is_not_kept() {
    let context = Context {
        requester: NIC,
        domain: 5,
        pasid: 0,
        chapter: Chapter::Legacy,
        stage: Stage::Tables(Tables { root: 0, levels: 4 }),
        width: 48,
        fault_disable: false,
    };
    let page = Page {
        iova: 0x4000,
        gpa: 0x8000,
        shift: 12,
        read: true,
        write: true,
    };
    let cache = Cache::new();
    let find = || cache.find(NIC, 0x4000, Access::Read);
    for overtaken in [true, false] {
        let generation = find().map_or_else(|miss| miss.generation, |_| panic!("a hit"));
        if overtaken {
            // Of another domain even: shards know no better, and lose no more than time.
            cache.invalidate_pages(PageScope::Domain(9));
        }
        cache.keep(generation, context, Some(page));
        assert_eq!(find().is_ok(), !overtaken);
    }
}

#[test]
fn an_interrupt_entry_that_an_invalidation_overtakes_is_not_kept() {
    let entries = EntryCache::new();
    let entry = super::super::entry::InterruptEntry(1);
    let generation = entries.find(9).unwrap_err();
    entries.invalidate(Some(7..8));
    entries.keep(generation, 9, entry);
    let generation = entries.find(9).unwrap_err();
    entries.keep(generation, 9, entry);
    assert_eq!(entries.find(9), Ok(entry));
    // In the same place, but another one.
    entries.invalidate(Some(9 + 1024..10 + 1024));
    assert_eq!(entries.find(9), Ok(entry));
}
