//! What stays until it is invalidated, and what goes when it is (VT-d 4.1 §6.2, §6.5.2).

use super::super::super::cache::Cache;
use super::*;

/// A rig whose queue of wide descriptors runs.
fn queued() -> Scalable {
    let rig = Scalable::on();
    rig.enable_wide_queue();
    rig
}

/// Whether a page that was mapped is still served.
fn cached(rig: &Rig, requester: Bdf, iova: u64) -> bool {
    let there = rig.read(requester, iova).is_some();
    rig.take_faults();
    there
}

/// Loads first-stage pages, and takes them out of the table.
fn load_and_unmap(rig: &Scalable, top: u64, behind: u64, pages: std::ops::Range<u64>) {
    for page in pages.clone() {
        let slot = rig.first_slot(top, 4, 1, page << 12, behind);
        rig.poke(slot, (behind + 0x8000) | PWU);
        assert_eq!(rig.read(NIC, page << 12), Some(0x8000));
    }
    for page in pages {
        rig.poke(rig.first_slot(top, 4, 1, page << 12, behind), 0);
    }
}

/// A NIC that goes from domain 5, where 0x4000 is 0x8000, to 6, where it is 0x9000.
fn moved() -> Scalable {
    let rig = queued();
    let top = rig.first(NIC, 6);
    rig.map_first(top, 0x4000, 0x9000, PWU);
    let six = [FIRST | 1, 6, top];
    let top = rig.second(NIC, 5);
    rig.map(top, 0x4000, 0x8000, RW);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    rig.set_pasid(NIC, six);
    for _ in 0..3 {
        assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    }
    rig
}

#[test]
fn a_pasid_entry_is_served_until_it_is_invalidated() {
    // It is known by the domain that it was in.
    for (granularity, domain, pasid) in [(0, 5, 0), (0, 5, 7), (1, 5, 0), (3, 0, 9)] {
        let rig = moved();
        rig.forget_pasids(granularity, domain, pasid);
        assert_eq!(rig.read(NIC, 0x4000), Some(0x9000), "{granularity}");
    }
}

#[test]
fn other_pasid_entries_stay() {
    for (granularity, domain, pasid) in [(0, 6, 0), (0, 4, 0), (1, 5, 1), (1, 6, 0)] {
        let rig = moved();
        rig.forget_pasids(granularity, domain, pasid);
        assert_eq!(rig.read(NIC, 0x4000), Some(0x8000), "{granularity}");
    }
}

#[test]
fn invalidating_pages_leaves_pasid_entries() {
    let rig = moved();
    rig.submit_wide(0x12, 0);
    rig.forget_pasid(5, 0);
    // Read anew, but from the tables of before.
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
}

#[test]
fn a_context_entry_is_served_until_it_is_invalidated() {
    let descriptors = [
        0x31 | u64::from(NIC.requester_id()) << 32,
        0x31 | u64::from(Bdf::new(0, 2, 6).requester_id()) << 32 | 2 << 48,
        0x11,
        // No domain is told from another.
        0x21 | 77 << 16,
    ];
    for low in descriptors {
        let rig = queued();
        let top = rig.second(NIC, 5);
        rig.map(top, 0x4000, 0x8000, RW);
        assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
        rig.poke(rig.context(NIC), 0);
        assert!(cached(&rig, NIC, 0x4000));
        rig.forget_context(DISK);
        assert!(cached(&rig, NIC, 0x4000));
        rig.submit_wide(low, 0);
        assert!(!cached(&rig, NIC, 0x4000), "{low:#x}");
    }
}

#[test]
fn contexts_of_legacy_tables_are_no_pasid_entries() {
    let rig = Rig::with(SCALABLE);
    rig.enable();
    let top = rig.domain(NIC, 5);
    rig.map(top, 0x4000, 0x8000, RW);
    assert!(rig.read(NIC, 0x4000).is_some());
    rig.set_context(NIC, 0, 0);
    rig.w64(offset::IQA, QUEUE | 1 << 11);
    rig.w32(offset::GCMD, TE | QIE);
    rig.poke(QUEUE, 0x07 | 5 << 16);
    rig.w64(offset::IQT, 32);
    assert!(cached(&rig, NIC, 0x4000));
}

#[test]
fn a_first_stage_page_is_served_until_it_is_invalidated() {
    for all in [false, true] {
        let rig = queued();
        let top = rig.first(NIC, 5);
        load_and_unmap(&rig, top, 0, 4..5);
        for _ in 0..3 {
            assert!(cached(&rig, NIC, 0x4000));
        }
        // Those of another domain or PASID.
        rig.forget_pasid(6, 0);
        rig.forget_pasid(5, 1);
        rig.forget_pasid_pages(6, 0, 0x4000, 0);
        rig.forget_pasid_pages(5, 1, 0x4000, 0);
        assert!(cached(&rig, NIC, 0x4000));
        match all {
            true => rig.forget_pasid(5, 0),
            false => rig.forget_pasid_pages(5, 0, 0x4000, 0),
        }
        assert!(!cached(&rig, NIC, 0x4000));
    }
}

#[test]
fn page_selective_invalidation_leaves_other_pages() {
    let rig = queued();
    let top = rig.first(NIC, 5);
    load_and_unmap(&rig, top, 0, 0..64);
    // AM 2: four pages, whichever of them is named. The hint keeps no leaf.
    rig.forget_pasid_pages(5, 0, 0xe000, 2 | 1 << 6);
    for page in 0..64 {
        let gone = (12..16).contains(&page);
        assert_eq!(cached(&rig, NIC, page << 12), !gone, "{page}");
    }
}

#[test]
fn every_address_mask_covers_its_pages_of_either_sign() {
    for mask in 0..64_u64 {
        for upper in [0, u64::MAX << 47] {
            let rig = queued();
            let top = rig.first(NIC, 5);
            let last = (0x1000_u64 << mask.min(32)) - 0x1000;
            for iova in [0, last, last + 0x1000] {
                rig.map_first(top, upper + iova, 0x8000, PWU);
                assert!(rig.read(NIC, upper + iova).is_some());
                rig.poke(rig.first_slot(top, 4, 1, upper + iova, 0), 0);
            }
            rig.forget_pasid_pages(5, 0, upper, mask);
            assert!(!cached(&rig, NIC, upper));
            assert!(!cached(&rig, NIC, upper + last));
            let next = cached(&rig, NIC, upper + last + 0x1000);
            assert_eq!(next, mask <= 32, "{mask}");
        }
    }
}

#[test]
fn a_large_first_stage_page_goes_with_any_part_of_it() {
    let rig = queued();
    let top = rig.first(NIC, 5);
    let slot = rig.first_slot(top, 4, 2, 0x20_0000, 0);
    rig.poke(slot, 0x40_0000 | LARGE | PWU);
    assert!(rig.read(NIC, 0x20_0000).is_some());
    rig.poke(slot, 0);
    rig.forget_pasid_pages(5, 0, 0x40_0000, 0);
    assert!(cached(&rig, NIC, 0x20_0000), "the page after it");
    rig.forget_pasid_pages(5, 0, 0x3f_f000, 0);
    assert!(!cached(&rig, NIC, 0x20_0000));
}

#[test]
fn pasids_of_a_domain_have_their_own_pages() {
    let rig = queued();
    let top = rig.first(NIC, 5);
    let context = rig.context(NIC);
    let directory = rig.peek(context) & !0xfff;
    // Each differs from 0 in another part of the tag.
    for pasid in [0x3f, 0x1f00] {
        rig.poke(context + 8, 0);
        rig.forget_context(NIC);
        load_and_unmap(&rig, top, 0, 4..5);
        let table = match pasid >> 6 {
            0 => rig.pasid(NIC),
            number => {
                let table = rig.table();
                rig.poke(directory + number * 8, table | 1);
                table
            }
        };
        for (at, quad) in (0..).step_by(8).zip([5, top]) {
            rig.poke(table + (pasid & 0x3f) * 64 + 8 + at, quad);
        }
        rig.poke(table + (pasid & 0x3f) * 64, FIRST | 1);
        rig.poke(context + 8, pasid);
        assert!(cached(&rig, NIC, 0x4000), "of before");
        rig.forget_context(NIC);
        assert!(!cached(&rig, NIC, 0x4000));
        load_and_unmap(&rig, top, 0, 4..5);
        rig.forget_pasid(5, 0);
        assert!(cached(&rig, NIC, 0x4000));
        rig.forget_pasid(5, pasid);
        assert!(!cached(&rig, NIC, 0x4000));
    }
}

#[test]
fn second_stage_pages_are_the_domains_whatever_the_pasid() {
    let rig = queued();
    let load = || {
        let top = rig.second(NIC, 5);
        rig.forget_pasids(3, 0, 0);
        rig.map(top, 0x4000, 0x8000, RW);
        assert!(rig.read(NIC, 0x4000).is_some());
        rig.map(top, 0x4000, 0, 0);
    };
    load();
    rig.forget_pasid(5, 0);
    rig.forget_pasid_pages(5, 0, 0x4000, 0);
    assert!(cached(&rig, NIC, 0x4000));
    for low in [0x12, 0x22 | 5 << 16, 0x32 | 5 << 16] {
        load();
        rig.submit_wide(low, 0x4000);
        assert!(!cached(&rig, NIC, 0x4000), "{low:#x}");
    }
}

#[test]
fn the_iotlb_descriptor_takes_all_stages_but_first_stage_pages_one_by_one() {
    for (low, gone) in [
        (0x12, true),
        (0x22 | 5 << 16, true),
        (0x22 | 6 << 16, false),
        (0x32 | 5 << 16, false),
    ] {
        let rig = queued();
        let top = rig.first(NIC, 5);
        load_and_unmap(&rig, top, 0, 4..5);
        rig.submit_wide(low, 0x4000);
        assert_eq!(cached(&rig, NIC, 0x4000), !gone, "{low:#x}");
    }
}

#[test]
fn nested_pages_go_with_any_page_of_their_second_stage() {
    for (low, high, gone) in [
        (0x12, 0, true),
        (0x22 | 5 << 16, 0, true),
        (0x32 | 5 << 16, 0x77_0000, true),
        (0x32 | 6 << 16, 0x4000, false),
        (0x22 | 6 << 16, 0, false),
    ] {
        let rig = queued();
        let (top, _) = rig.nested(NIC, 5);
        load_and_unmap(&rig, top, BEHIND, 4..5);
        assert!(cached(&rig, NIC, 0x4000));
        rig.submit_wide(low, high);
        assert_eq!(cached(&rig, NIC, 0x4000), !gone, "{low:#x}");
    }
}

#[test]
fn nested_pages_go_with_the_large_page_of_the_first_stage_that_they_are_part_of() {
    let rig = queued();
    let (top, second) = rig.nested(NIC, 5);
    let slot = rig.first_slot(top, 4, 2, 0x20_0000, BEHIND);
    rig.poke(slot, 0x40_0000 | LARGE | PWU);
    let pages = [0, 7, 511];
    for page in pages {
        rig.map(second, 0x40_0000 + (page << 12), 0x8000, RW);
        assert!(rig.read(NIC, 0x20_0000 + (page << 12)).is_some());
    }
    rig.poke(slot, 0);
    rig.forget_pasid_pages(6, 0, 0x20_0000, 0);
    rig.forget_pasid_pages(5, 1, 0x20_0000, 0);
    assert!(
        pages
            .iter()
            .all(|page| cached(&rig, NIC, 0x20_0000 + (page << 12)))
    );
    rig.forget_pasid_pages(5, 0, 0x20_3000, 0);
    for page in pages {
        assert!(!cached(&rig, NIC, 0x20_0000 + (page << 12)));
    }
}

#[test]
fn pass_through_is_served_until_its_entry_is_invalidated() {
    let rig = queued();
    rig.pass_through(NIC, 5);
    for _ in 0..2 {
        let to = rig.vtd.translate(NIC, 0x1234, 0x5000, Access::Write);
        assert_eq!(to.map(|to| (to.gpa, to.len)), Ok((0x1234, 0x5000)));
    }
    rig.poke(rig.pasid(NIC), 0);
    assert!(cached(&rig, NIC, 0x4000));
    rig.submit_wide(0x12, 0);
    rig.forget_pasids(1, 6, 0);
    assert!(cached(&rig, NIC, 0x4000));
    rig.forget_pasids(1, 5, 0);
    assert!(!cached(&rig, NIC, 0x4000));
}

#[test]
fn a_new_root_table_forgets_everything() {
    let rig = queued();
    let top = rig.first(NIC, 5);
    load_and_unmap(&rig, top, 0, 4..5);
    rig.w32(offset::GCMD, SRTP | TE | QIE);
    assert!(!cached(&rig, NIC, 0x4000));
    load_and_unmap(&rig, top, 0, 4..5);
    // From scalable to legacy tables, which are not there.
    rig.w64(offset::RTADDR, ROOT + 0x10_0000);
    assert!(cached(&rig, NIC, 0x4000));
    rig.w32(offset::GCMD, SRTP | TE | QIE);
    assert_eq!(rig.read(NIC, 0x4000), None);
    assert_eq!(rig.take_faults()[0].reason, 0x1);
}

#[test]
fn more_pages_than_there_is_room_for() {
    let rig = queued();
    let (top, _) = rig.nested(NIC, 5);
    for page in 0..3000_u64 {
        rig.map_nested(top, page << 12, BEHIND + ((page % 512) << 12), PWU);
        assert_eq!(rig.read(NIC, page << 12), Some((page % 512) << 12));
    }
    rig.poke(top, 0);
    rig.forget_pasid(5, 0);
    for page in 0..3000_u64 {
        assert!(!cached(&rig, NIC, page << 12));
    }
}

#[test]
fn an_invalidation_waits_for_a_walk_that_marks_entries() {
    let cache = Cache::new();
    assert!(!cache.is_held(NIC));
    let held = cache.hold(NIC);
    assert!(cache.is_held(NIC));
    drop(held);
    assert!(!cache.is_held(NIC));
}
