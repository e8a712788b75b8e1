//! Every reason for which page tables block a request in scalable mode (VT-d 4.1 §7.1.3: SFS,
//! SSS and SGN), and what each records.

use super::reasons::{faults, faults_quietly};
use super::*;

/// Sets FPD in the NIC's PASID entry.
fn disable_faults(rig: &Scalable) {
    let at = rig.pasid(NIC);
    rig.poke(at, rig.peek(at) | 2);
    rig.contexts(1, 0, NIC, 0);
}

/// `faults`, and quiet with FPD.
#[track_caller]
fn faults_qualified(rig: &Scalable, iova: u64, access: Access, reason: u8) {
    faults(rig, iova, access, reason);
    faults(rig, iova, access, reason); // The context is cached now.
    disable_faults(rig);
    faults_quietly(rig, iova, access);
}

fn first() -> (Scalable, u64) {
    let rig = Scalable::on();
    let top = rig.first(NIC, 5);
    rig.map_first(top, 0x4000, 0x8000, PWU);
    (rig, top)
}

fn second() -> (Scalable, u64) {
    let rig = Scalable::on();
    let top = rig.second(NIC, 5);
    rig.map(top, 0x4000, 0x8000, RW);
    (rig, top)
}

/// First-stage and second-stage tables, and a page of both at 0x4000.
fn nested() -> (Scalable, u64, u64) {
    let rig = Scalable::on();
    let (top, second) = rig.nested(NIC, 5);
    rig.map_nested(top, 0x4000, BEHIND + 0x8000, PWU);
    (rig, top, second)
}

/// Has the second stage map the page of a first-stage table with these flags.
fn remap(rig: &Scalable, second: u64, table: u64, flags: u64) {
    let slot = rig.slot(second, 4, 2, BEHIND + table);
    if rig.peek(slot) & LARGE != 0 {
        let large = rig.peek(slot) & !0x1f_ffff;
        let pages = rig.table();
        for page in 0..512 {
            rig.poke(pages + page * 8, (large + page * 0x1000) | RW);
        }
        rig.poke(slot, pages | RW);
    }
    let slot = rig.slot(second, 4, 1, BEHIND + table);
    rig.poke(slot, rig.peek(slot) & !0xfff | flags);
}

#[test]
fn reason_70h_first_stage_entry_cannot_be_read() {
    for level in 2..=4 {
        let (rig, top) = first();
        rig.poke(rig.first_slot(top, 4, level, 0x4000, 0), 1 << 40 | PWU);
        faults_qualified(&rig, 0x4000, Access::Read, 0x70);
    }
}

#[test]
fn reason_71h_first_stage_entry_not_present() {
    for level in 1..=4 {
        let (rig, top) = first();
        // Nothing else of it counts.
        rig.poke(rig.first_slot(top, 4, level, 0x4000, 0), !1);
        faults_qualified(&rig, 0x4000, Access::Write, 0x71);
    }
}

#[test]
fn reason_72h_reserved_bits_in_a_first_stage_entry() {
    let reserved = |level: u8| {
        let own: &[u64] = if level > 3 { &[7] } else { &[] };
        (46..52).chain(own.iter().copied())
    };
    for level in 1..=4 {
        for bit in reserved(level) {
            let (rig, top) = first();
            let slot = rig.first_slot(top, 4, level, 0x4000, 0);
            rig.poke(slot, rig.peek(slot) | 1 << bit);
            faults_qualified(&rig, 0x4000, Access::Read, 0x72);
        }
    }
}

#[test]
fn reason_72h_misaligned_large_pages() {
    for (level, bits) in [(2, 13..21), (3, 13..30)] {
        for bit in bits {
            let (rig, top) = first();
            let slot = rig.first_slot(top, 4, level, 0x4000, 0);
            rig.poke(slot, 1 << bit | LARGE | PWU);
            faults(&rig, 0x4000, Access::Read, 0x72);
        }
    }
}

#[test]
fn ignored_bits_of_first_stage_entries_are_ignored() {
    let (rig, top) = first();
    // PWT, PCD, what is software's, and XD; PAT and G of the page.
    let ignored = 0xfff << 52 | 0xe18;
    for level in 1..=4 {
        let slot = rig.first_slot(top, 4, level, 0x4000, 0);
        let own = if level == 1 { 0x180 } else { 0x100 };
        rig.poke(slot, rig.peek(slot) | ignored | own);
    }
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    // PAT of a large page is in its lowest address bit.
    let slot = rig.first_slot(top, 4, 2, 0x20_0000, 0);
    rig.poke(slot, 0x40_0000 | 1 << 12 | LARGE | PWU);
    assert_eq!(rig.read(NIC, 0x20_0123), Some(0x40_0123));
}

#[test]
fn reason_73h_topmost_first_stage_table_cannot_be_read() {
    let rig = Scalable::on();
    rig.set_pasid(NIC, [FIRST | 1, 5, 1 << 40]);
    faults_qualified(&rig, 0x4000, Access::Read, 0x73);
}

#[test]
fn reason_74h_first_stage_entry_beyond_the_second_stage() {
    let (rig, top, _) = nested();
    let slot = rig.first_slot(top, 4, 3, 0x4000, BEHIND);
    rig.poke(slot, 1 << 48 | PWU);
    faults_qualified(&rig, 0x4000, Access::Read, 0x74);
}

#[test]
fn reason_75h_topmost_first_stage_table_may_not_be_read() {
    let (rig, top, second) = nested();
    remap(&rig, second, top, W);
    faults_qualified(&rig, 0x4000, Access::Read, 0x75);
}

#[test]
fn reason_76h_first_stage_table_may_not_be_read() {
    for level in 1..=3 {
        let (rig, top, second) = nested();
        let table = rig.first_slot(top, 4, level, 0x4000, BEHIND) & !0xfff;
        remap(&rig, second, table, W);
        faults_qualified(&rig, 0x4000, Access::Read, 0x76);
    }
}

#[test]
fn reason_77h_first_stage_entry_may_not_be_marked() {
    for level in 1..=4 {
        let (rig, top, second) = nested();
        let slot = rig.first_slot(top, 4, level, 0x4000, BEHIND);
        remap(&rig, second, slot & !0xfff, R);
        faults(&rig, 0x4000, Access::Read, 0x77);
        // Marked already, it need not be.
        rig.poke(slot, rig.peek(slot) | A);
        assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
        if level == 1 {
            faults(&rig, 0x4000, Access::Write, 0x77);
            rig.poke(slot, rig.peek(slot) | D);
        }
        assert_eq!(rig.write(NIC, 0x4000), Some(0x8000));
    }
}

#[test]
fn reason_78h_second_stage_entry_cannot_be_read() {
    for level in 2..=4 {
        let (rig, top) = second();
        rig.poke(rig.slot(top, 4, level, 0x4000), 1 << 40 | RW);
        faults_qualified(&rig, 0x4000, Access::Read, 0x78);
    }
    let (rig, _, second) = nested();
    rig.poke(rig.slot(second, 4, 3, BEHIND), 1 << 40 | RW);
    faults_qualified(&rig, 0x4000, Access::Read, 0x78);
}

#[test]
fn reason_79h_second_stage_entry_with_neither_r_nor_w() {
    for level in 1..=4 {
        let (rig, top) = second();
        rig.poke(rig.slot(top, 4, level, 0x4000), !RW);
        faults_qualified(&rig, 0x4000, Access::Write, 0x79);
    }
    // Behind a table of the first stage, and behind its page.
    let (rig, top, second) = nested();
    remap(&rig, second, top, 0);
    faults(&rig, 0x4000, Access::Read, 0x79);
    let (rig, top, _) = nested();
    rig.map_nested(top, 0x4000, 0x8000, PWU);
    faults_qualified(&rig, 0x4000, Access::Read, 0x79);
}

#[test]
fn reason_7ah_reserved_bits_in_a_second_stage_entry() {
    for level in 1..=4 {
        let (rig, top) = second();
        let slot = rig.slot(top, 4, level, 0x4000);
        rig.poke(slot, rig.peek(slot) | 1 << 62);
        faults_qualified(&rig, 0x4000, Access::Read, 0x7a);
    }
    let (rig, _, second) = nested();
    let slot = rig.slot(second, 4, 3, BEHIND);
    rig.poke(slot, rig.peek(slot) | 1 << 50);
    faults_qualified(&rig, 0x4000, Access::Read, 0x7a);
}

#[test]
fn reason_7bh_topmost_second_stage_table_cannot_be_read() {
    let rig = Scalable::on();
    for kind in [SECOND, NESTED] {
        rig.set_pasid(NIC, [1 << 40 | kind | AW48 | 1, 5, 0]);
        rig.contexts(1, 0, NIC, 0);
        faults_qualified(&rig, 0x4000, Access::Write, 0x7b);
    }
}

#[test]
fn reason_80h_address_that_is_not_canonical() {
    for (mode, bits) in [(0, 48), (1, 57)] {
        let rig = Scalable::on();
        let top = rig.table();
        rig.set_pasid(NIC, [FIRST | 1, 5, top | mode << 2]);
        let wrong = [
            1 << (bits - 1),
            1 << bits,
            1 << 63,
            u64::MAX << bits,
            !(1 << (bits - 1)),
        ];
        for iova in wrong {
            faults(&rig, iova & !0xfff, Access::Read, 0x80);
        }
        for iova in [(1 << (bits - 1)) - 0x1000, u64::MAX << (bits - 1)] {
            faults(&rig, iova, Access::Read, 0x71);
        }
        faults_qualified(&rig, 1 << bits, Access::Write, 0x80);
    }
    let (rig, ..) = nested();
    faults_qualified(&rig, 1 << 47, Access::Read, 0x80);
}

#[test]
fn reason_81h_a_users_request_to_a_supervisors_page() {
    for level in 1..=4 {
        let (rig, top) = first();
        let slot = rig.first_slot(top, 4, level, 0x4000, 0);
        rig.poke(slot, rig.peek(slot) & !4);
        faults(&rig, 0x4000, Access::Write, 0x81);
        faults_qualified(&rig, 0x4000, Access::Read, 0x81);
        assert_eq!(rig.peek(rig.first_slot(top, 4, 1, 0x4000, 0)) & (A | D), 0);
    }
}

#[test]
fn reason_83h_address_beyond_the_second_stage() {
    let (rig, _) = second();
    faults(&rig, !0xfff, Access::Read, 0x83);
    faults_qualified(&rig, 1 << 48, Access::Read, 0x83);
    let rig = Scalable::on();
    rig.set_pasid(NIC, [PASS | 1 << 2 | 1, 5, 0]);
    faults_qualified(&rig, 1 << 39, Access::Read, 0x83);
}

#[test]
fn reason_84h_first_stage_leads_beyond_the_second_stage() {
    let (rig, top, _) = nested();
    rig.map_nested(top, 0x5000, 1 << 48, PWU);
    faults_qualified(&rig, 0x5000, Access::Read, 0x84);
}

#[test]
fn reason_85h_write_without_permission() {
    for level in 1..=4 {
        let (rig, top) = first();
        let slot = rig.first_slot(top, 4, level, 0x4000, 0);
        rig.poke(slot, rig.peek(slot) & !2);
        assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
        faults_qualified(&rig, 0x4000, Access::Write, 0x85);
        assert_eq!(rig.peek(rig.first_slot(top, 4, 1, 0x4000, 0)) & D, 0);
        let (rig, top) = second();
        let slot = rig.slot(top, 4, level, 0x4000);
        rig.poke(slot, rig.peek(slot) & !W);
        assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
        faults_qualified(&rig, 0x4000, Access::Write, 0x85);
    }
    let (rig, _, second) = nested();
    remap(&rig, second, 0x8000, R);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    faults_qualified(&rig, 0x4000, Access::Write, 0x85);
}

#[test]
fn reason_86h_read_without_permission() {
    for level in 1..=4 {
        let (rig, top) = second();
        let slot = rig.slot(top, 4, level, 0x4000);
        rig.poke(slot, rig.peek(slot) & !R);
        assert_eq!(rig.write(NIC, 0x4000), Some(0x8000));
        faults_qualified(&rig, 0x4000, Access::Read, 0x86);
    }
    let (rig, _, second) = nested();
    remap(&rig, second, 0x8000, W);
    assert_eq!(rig.write(NIC, 0x4000), Some(0x8000));
    faults_qualified(&rig, 0x4000, Access::Read, 0x86);
}

#[test]
fn reason_87h_translation_into_the_interrupt_range() {
    let (rig, top) = first();
    rig.map_first(top, 0x5000, 0xfee0_0000, PWU);
    faults_qualified(&rig, 0x5000, Access::Write, 0x87);
    let (rig, top) = second();
    rig.map(top, 0x5000, 0xfeef_f000, RW);
    faults_qualified(&rig, 0x5000, Access::Write, 0x87);
    let (rig, top, second) = nested();
    rig.map_nested(top, 0x5000, 0x5000, PWU);
    rig.map(second, 0x5000, 0xfee0_1000, RW);
    faults_qualified(&rig, 0x5000, Access::Read, 0x87);
    // In between it is an address like any other.
    rig.map_nested(top, 0x6000, 0xfee0_0000, PWU);
    rig.map(second, 0xfee0_0000, 0x9000, RW);
    assert_eq!(rig.write(NIC, 0x6000), Some(0x9000));
}
