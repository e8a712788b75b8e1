//! The first stage: a processor's tables, and the marks that walking them leaves. What software
//! may do meanwhile is tried in `iommu/tests/vtd_marks.rs`.

use super::*;

#[test]
fn both_modes_and_every_page_length_translate() {
    for (mode, levels) in [(0, 4), (1, 5)] {
        for level in 1..=3_u8 {
            for upper in [false, true] {
                let rig = Scalable::on();
                let top = rig.table();
                rig.set_pasid(NIC, [FIRST | 1, 5, top | mode << 2]);
                let len = 0x1000_u64 << (9 * (level - 1));
                let iova = match upper {
                    false => (1 << (levels * 9 + 11)) - 3 * len,
                    true => 0_u64.wrapping_sub(3 * len),
                };
                let slot = rig.first_slot(top, levels, level, iova, 0);
                let large = if level > 1 { LARGE } else { 0 };
                rig.poke(slot, 0x20_0000_0000 | large | PWU);
                // From the tables, and from the caches.
                for _ in 0..2 {
                    let to = rig
                        .vtd
                        .translate(NIC, iova + 0x123, u64::MAX, Access::Read)
                        .unwrap();
                    assert_eq!((to.gpa, to.len), (0x20_0000_0123, len - 0x123));
                }
                let last = rig.vtd.translate(NIC, iova + len - 1, 8, Access::Write);
                assert_eq!(last.unwrap().len, 1);
                assert_eq!(rig.read(NIC, iova + len), None);
                assert_eq!(rig.read(NIC, iova - 1), None);
            }
        }
    }
}

#[test]
fn addresses_of_opposite_sign_are_not_taken_for_each_other() {
    let rig = Scalable::on();
    let top = rig.first(NIC, 5);
    let upper = u64::MAX << 47;
    rig.map_first(top, 0x4000, 0x8000, PWU);
    rig.map_first(top, upper + 0x4000, 0x9000, PWU);
    for _ in 0..2 {
        assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
        assert_eq!(rig.read(NIC, upper + 0x4000), Some(0x9000));
    }
}

fn entries(rig: &Scalable, top: u64, iova: u64) -> [u64; 4] {
    [1, 2, 3, 4].map(|level| rig.peek(rig.first_slot(top, 4, level, iova, 0)))
}

#[test]
fn a_read_marks_what_it_used_as_accessed() {
    let rig = Scalable::on();
    let top = rig.first(NIC, 5);
    rig.map_first(top, 0x4000, 0x8000, PWU);
    rig.map_first(top, 0x5000, 0x9000, PWU);
    let before = entries(&rig, top, 0x4000);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    assert_eq!(entries(&rig, top, 0x4000), before.map(|entry| entry | A));
    assert_eq!(entries(&rig, top, 0x5000)[0] & (A | D), 0);
}

#[test]
fn a_write_marks_the_page_as_dirty_though_a_read_has_it_cached() {
    let rig = Scalable::on();
    let top = rig.first(NIC, 5);
    rig.map_first(top, 0x4000, 0x8000, PWU);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    assert_eq!(rig.write(NIC, 0x4000), Some(0x8000));
    let marks = entries(&rig, top, 0x4000).map(|entry| entry & (A | D));
    assert_eq!(marks, [A | D, A, A, A]);
    // Cached as dirty now: it is not marked again until it is invalidated.
    let slot = rig.first_slot(top, 4, 1, 0x4000, 0);
    rig.poke(slot, 0x8000 | PWU);
    assert_eq!(rig.write(NIC, 0x4000), Some(0x8000));
    assert_eq!(rig.peek(slot), 0x8000 | PWU);
    rig.enable_wide_queue();
    rig.forget_pasid(5, 0);
    assert_eq!(rig.write(NIC, 0x4000), Some(0x8000));
    assert_eq!(rig.peek(slot), 0x8000 | PWU | A | D);
}

#[test]
fn large_pages_are_marked_like_others() {
    for level in [2, 3] {
        let rig = Scalable::on();
        let top = rig.first(NIC, 5);
        let slot = rig.first_slot(top, 4, level, 0, 0);
        rig.poke(slot, LARGE | PWU);
        assert_eq!(rig.write(NIC, 0x4000), Some(0x4000));
        assert_eq!(rig.peek(slot), LARGE | PWU | A | D);
    }
}

#[test]
fn what_is_not_allowed_leaves_no_mark_on_the_page() {
    let rig = Scalable::on();
    let top = rig.first(NIC, 5);
    rig.map_first(top, 0x4000, 0x8000, PU);
    assert_eq!(rig.write(NIC, 0x4000), None);
    assert_eq!(entries(&rig, top, 0x4000)[0], 0x8000 | PU);
}

#[test]
fn a_supervisor_reaches_what_users_do_not() {
    let rig = Scalable::on();
    let top = rig.first(NIC, 5);
    rig.map_first(top, 0x4000, 0x8000, PW);
    rig.map_first(top, 0x5000, 0x9000, P);
    rig.poke(rig.context(NIC) + 8, 1 << 20);
    let sre_and_wpe = |wpe: u64| {
        rig.poke(rig.pasid(NIC) + 16, top | 1 | wpe << 4);
        rig.contexts(1, 0, NIC, 0);
        rig.iotlb(1, 0, 0);
    };
    sre_and_wpe(1);
    assert_eq!(rig.write(NIC, 0x4000), Some(0x8000));
    assert_eq!(rig.read(NIC, 0x5000), Some(0x9000));
    assert_eq!(rig.write(NIC, 0x5000), None);
    assert_eq!(rig.take_faults()[0].reason, 0x85);
    sre_and_wpe(0);
    for _ in 0..2 {
        assert_eq!(rig.write(NIC, 0x5000), Some(0x9000));
    }
    assert_eq!(entries(&rig, top, 0x5000)[0], 0x9000 | P | A | D);
}

#[test]
fn a_read_of_no_length_is_a_read() {
    let rig = Scalable::on();
    let top = rig.first(NIC, 5);
    rig.map_first(top, 0x4000, 0x8000, PU);
    let to = rig.vtd.translate(NIC, 0x4000, 0, Access::Read).unwrap();
    assert_eq!((to.gpa, to.len), (0x8000, 0));
}

#[test]
fn the_interrupt_range_is_never_translated() {
    let rig = Scalable::on();
    let top = rig.first(NIC, 5);
    rig.map_first(top, 0xfee0_1000, 0x8000, PWU);
    assert_eq!(rig.write(NIC, 0xfee0_1004), Some(0xfee0_1004));
}

#[test]
fn tables_that_loop_end_in_a_page_or_a_fault() {
    let rig = Scalable::on();
    let top = rig.first(NIC, 5);
    for i in 0..512 {
        rig.poke(top + 8 * i, top | PWU);
    }
    assert_eq!(rig.read(NIC, 0x7_1234_5678), Some(top + 0x678));
    let (top, second) = rig.nested(NIC, 5);
    for i in 0..512 {
        rig.poke(top + 8 * i, (top + BEHIND) | PWU);
        rig.poke(second + 8 * i, second | PWU);
    }
    rig.contexts(1, 0, NIC, 0);
    // The second stage takes itself for the first, and the first stage for nothing.
    assert_eq!(rig.read(NIC, 0x7_1234_5678), Some(second + 0x678));
}
