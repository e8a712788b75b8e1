//! First-stage tables behind second-stage tables.

use super::*;

#[test]
fn tables_and_pages_of_the_first_stage_go_through_the_second() {
    let rig = Scalable::on();
    let (top, second) = rig.nested(NIC, 5);
    rig.map_nested(top, 0x4000, 0x1_2000, PWU);
    rig.map(second, 0x1_2000, 0x8000, RW);
    for _ in 0..2 {
        let to = rig.vtd.translate(NIC, 0x4123, 0x5000, Access::Write);
        assert_eq!(to.map(|to| (to.gpa, to.len)), Ok((0x8123, 0xedd)));
    }
    let slot = rig.first_slot(top, 4, 1, 0x4000, BEHIND);
    assert_eq!(rig.peek(slot), 0x1_2000 | PWU | A | D);
}

#[test]
fn the_smaller_page_of_both_counts() {
    // Levels of the pages of either stage.
    for (level, behind) in [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
        (3, 1),
        (3, 2),
        (2, 3),
        (3, 3),
    ] {
        let rig = Scalable::on();
        let (top, second) = rig.nested(NIC, 5);
        let size = |level: u8| 0x1000_u64 << (9 * (level - 1));
        let large = |level: u8| if level > 1 { LARGE } else { 0 };
        // The page's address in the first stage, at which the second has one 5 GiB up.
        let (iova, gpa, host) = (7 << 30, 3 << 30, 8 << 30);
        let slot = rig.first_slot(top, 4, level, iova, BEHIND);
        rig.poke(slot, gpa | large(level) | PWU);
        let slot = rig.slot(second, 4, behind, gpa);
        rig.poke(slot, host | large(behind) | RW);
        let length = size(level.min(behind));
        for _ in 0..2 {
            let to = rig
                .vtd
                .translate(NIC, iova + 0x234, u64::MAX, Access::Write);
            let to = to.map(|to| (to.gpa, to.len));
            assert_eq!(to, Ok((host + 0x234, length - 0x234)), "{level} {behind}");
        }
        assert_eq!(rig.read(NIC, iova + length - 1), Some(host + length - 1));
        assert_eq!(rig.read(NIC, iova + length), None, "{level} {behind}");
    }
}

#[test]
fn parts_of_a_large_page_are_where_the_second_stage_has_them() {
    let rig = Scalable::on();
    let (top, second) = rig.nested(NIC, 5);
    let slot = rig.first_slot(top, 4, 2, 0x20_0000, BEHIND);
    rig.poke(slot, 0x40_0000 | LARGE | PWU);
    for page in 0..4 {
        rig.map(second, 0x40_0000 + page * 0x1000, (9 - page) << 16, RW);
    }
    for _ in 0..2 {
        for page in 0..4 {
            let to = rig.read(NIC, 0x20_0000 + page * 0x1000 + 0x10);
            assert_eq!(to, Some((9 - page) << 16 | 0x10));
        }
    }
}

#[test]
fn what_either_stage_does_not_allow_is_not() {
    let rig = Scalable::on();
    let (top, second) = rig.nested(NIC, 5);
    let cases = [(PWU, RW), (PU, RW), (PWU, R), (PWU, W)];
    for (i, (first, behind)) in (1..).zip(cases) {
        rig.map_nested(top, i << 12, i << 16, first);
        rig.map(second, i << 16, i << 20, behind);
        for _ in 0..2 {
            let read = rig.read(NIC, i << 12).is_some();
            let write = rig.write(NIC, i << 12).is_some();
            let both = (behind & R != 0, first & 2 != 0 && behind & W != 0);
            assert_eq!((read, write), both, "{first:x} {behind:x}");
        }
    }
    // A read of no length may go where writes may.
    let to = rig.vtd.translate(NIC, 4 << 12, 0, Access::Read);
    assert_eq!(to.unwrap().gpa, 4 << 20);
}

#[test]
fn five_levels_of_either_stage() {
    let rig = Scalable::on();
    let (top, second) = (rig.table(), rig.table());
    rig.set_pasid(NIC, [second | NESTED | 3 << 2 | 1, 5, top | 1 << 2]);
    // The second stage maps memory onto itself.
    rig.poke(rig.slot(second, 5, 3, 0), LARGE | RW);
    let iova = 0_u64.wrapping_sub(0x3000);
    rig.poke(rig.first_slot(top, 5, 1, iova, 0), 0x8000 | PWU);
    for _ in 0..2 {
        assert_eq!(rig.write(NIC, iova + 5), Some(0x8005));
    }
}
