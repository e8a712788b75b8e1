//! Every reason of the legacy chapter for which a request is blocked (VT-d 4.1 §7.1.3), and
//! what each records. The reasons of interrupt requests are with the interrupts.

use super::*;

/// `access` faults with `reason` and is recorded; with FPD set, it is so only if it is not
/// qualified.
#[track_caller]
fn faults(rig: &Rig, iova: u64, access: Access, reason: u8) {
    let fault = rig.vtd.translate(NIC, iova, 4, access).unwrap_err();
    assert_eq!((fault.requester, fault.address), (NIC, iova));
    let record = Record {
        reason,
        source: NIC,
        info: iova & !0xfff,
        read: access == Access::Read,
    };
    assert_eq!(rig.take_faults(), [record]);
}

/// The same access blocked, and nothing recorded.
#[track_caller]
fn faults_quietly(rig: &Rig, iova: u64, access: Access) {
    assert!(rig.vtd.translate(NIC, iova, 4, access).is_err());
    assert_eq!(rig.take_faults(), []);
}

/// A rig whose NIC has a domain and one page.
fn mapped() -> (Rig, u64) {
    let rig = Rig::on();
    let top = rig.domain(NIC, 5);
    rig.map(top, 0x4000, 0x8000, RW);
    (rig, top)
}

/// Sets FPD in the NIC's context entry, which must not be cached yet or again.
fn disable_faults(rig: &Rig) {
    let at = Rig::context_entry(NIC);
    rig.poke(at, rig.peek(at) | 2);
    rig.contexts(1, 0, NIC, 0);
}

#[test]
fn reason_1h_root_entry_not_present() {
    let rig = Rig::on();
    faults(&rig, 0x1234, Access::Read, 0x1);
    faults(&rig, 0x1234, Access::Write, 0x1);
}

#[test]
fn reason_2h_context_entry_not_present() {
    let rig = Rig::on();
    rig.set_context(NIC, 0, 0);
    faults(&rig, 0x1234, Access::Read, 0x2);
    rig.set_context(NIC, 2, 0);
    faults_quietly(&rig, 0x1234, Access::Read);
}

#[test]
fn reason_3h_context_entry_with_an_address_width_not_offered() {
    let rig = Rig::with(VtdConfig {
        width: Width::Bits48,
        ..CONFIG
    });
    rig.enable();
    for width in [0, 3, 4, 5, 6, 7] {
        rig.set_context(NIC, rig.table() | 1, width);
        faults(&rig, 0x1234, Access::Write, 0x3);
        rig.set_context(NIC, rig.table() | 3, width);
        faults_quietly(&rig, 0x1234, Access::Write);
    }
}

#[test]
fn reason_3h_context_entry_with_a_translation_type_not_offered() {
    let rig = Rig::on();
    rig.set_context(NIC, rig.table() | 3 << 2 | 1, 2);
    faults(&rig, 0x1234, Access::Read, 0x3);
    let rig = Rig::with(VtdConfig {
        device_tlb: false,
        ..CONFIG
    });
    rig.enable();
    rig.set_context(NIC, rig.table() | 1 << 2 | 1, 2);
    faults(&rig, 0x1234, Access::Read, 0x3);
}

#[test]
fn reason_4h_address_beyond_the_width_of_the_domain() {
    let (rig, _) = mapped();
    faults(&rig, 1 << 48, Access::Read, 0x4);
    faults(&rig, 1 << 48, Access::Read, 0x4); // The context is cached now.
    faults(&rig, !0xfff, Access::Write, 0x4);
    rig.set_context(NIC, 2 << 2 | 1, 1); // Pass-through, 39 bits.
    rig.contexts(1, 0, NIC, 0);
    faults(&rig, 1 << 39, Access::Read, 0x4);
    disable_faults(&rig);
    faults_quietly(&rig, 1 << 39, Access::Read);
}

#[test]
fn reason_5h_write_without_write_permission() {
    let (rig, top) = mapped();
    faults(&rig, 0x5000, Access::Write, 0x5);
    rig.map(top, 0x6000, 0x8000, R);
    assert_eq!(rig.read(NIC, 0x6000), Some(0x8000));
    faults(&rig, 0x6123, Access::Write, 0x5);
    // An entry above the page denies it just as well.
    let slot = rig.slot(top, 4, 3, 0x4000);
    rig.poke(slot, rig.peek(slot) & !W);
    faults(&rig, 0x4000, Access::Write, 0x5);
    disable_faults(&rig);
    faults_quietly(&rig, 0x4000, Access::Write);
}

#[test]
fn reason_6h_read_without_read_permission() {
    let (rig, top) = mapped();
    faults(&rig, 0x5000, Access::Read, 0x6);
    rig.map(top, 0x6000, 0x8000, W);
    assert_eq!(rig.write(NIC, 0x6000), Some(0x8000));
    faults(&rig, 0x6123, Access::Read, 0x6);
    let slot = rig.slot(top, 4, 4, 0x4000);
    rig.poke(slot, rig.peek(slot) & !R);
    faults(&rig, 0x4000, Access::Read, 0x6);
    disable_faults(&rig);
    faults_quietly(&rig, 0x4000, Access::Read);
}

#[test]
fn reason_7h_page_table_entry_cannot_be_read() {
    for level in 2..=4 {
        let (rig, top) = mapped();
        let slot = rig.slot(top, 4, level, 0x4000);
        rig.poke(slot, 1 << 40 | RW);
        faults(&rig, 0x4000, Access::Read, 0x7);
        disable_faults(&rig);
        faults_quietly(&rig, 0x4000, Access::Read);
    }
    let rig = Rig::on();
    rig.attach(NIC, 5, 1 << 40);
    faults(&rig, 0x4000, Access::Write, 0x7);
}

#[test]
fn reason_8h_root_entry_cannot_be_read() {
    let rig = Rig::new();
    rig.w64(offset::RTADDR, 1 << 40);
    rig.w32(offset::GCMD, SRTP);
    rig.w32(offset::GCMD, TE);
    faults(&rig, 0x1234, Access::Write, 0x8);
    rig.w64(offset::RTADDR, !0xfff);
    rig.w32(offset::GCMD, SRTP | TE);
    faults(&rig, 0x1234, Access::Write, 0x8);
}

#[test]
fn reason_9h_context_entry_cannot_be_read() {
    let rig = Rig::on();
    rig.poke(Rig::root_entry(NIC), 1 << 40 | 1);
    faults(&rig, 0x1234, Access::Read, 0x9);
}

#[test]
fn reason_ah_reserved_bits_in_the_root_entry() {
    let rig = Rig::on();
    rig.set_context(NIC, 0, 0);
    let at = Rig::root_entry(NIC);
    let good = rig.peek(at);
    for bit in (1..12).chain(46..64) {
        rig.poke(at, good | 1 << bit);
        faults(&rig, 0x1234, Access::Read, 0xa);
    }
    rig.poke(at, good);
    for bit in 0..64 {
        rig.poke(at + 8, 1 << bit);
        faults(&rig, 0x1234, Access::Read, 0xa);
    }
}

#[test]
fn reason_bh_reserved_bits_in_the_context_entry() {
    let (rig, top) = mapped();
    for bit in (4..12).chain(46..64) {
        rig.set_context(NIC, top | 1 | 1 << bit, 2);
        faults(&rig, 0x4000, Access::Read, 0xb);
        rig.set_context(NIC, top | 3 | 1 << bit, 2);
        faults_quietly(&rig, 0x4000, Access::Read);
    }
    for bit in [7].into_iter().chain(24..64) {
        rig.set_context(NIC, top | 1, 2 | 1 << bit);
        faults(&rig, 0x4000, Access::Read, 0xb);
    }
    // Available to software.
    rig.set_context(NIC, top | 1, 2 | 0xf << 3);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
}

#[test]
fn reason_ch_reserved_bits_in_a_page_table_entry() {
    let reserved = |level: u8| {
        let own: &[u64] = match level {
            1 => &[],
            2 | 3 => &[11],
            _ => &[7, 11],
        };
        (46..52).chain([62]).chain(own.iter().copied())
    };
    for level in 1..=4 {
        for bit in reserved(level) {
            let (rig, top) = mapped();
            let slot = rig.slot(top, 4, level, 0x4000);
            rig.poke(slot, rig.peek(slot) | 1 << bit);
            faults(&rig, 0x4000, Access::Read, 0xc);
            disable_faults(&rig);
            faults_quietly(&rig, 0x4000, Access::Read);
        }
    }
}

#[test]
fn reason_ch_misaligned_large_pages_and_snp_without_snoop_control() {
    for (level, low) in [(2, 20), (3, 29)] {
        let (rig, top) = mapped();
        let slot = rig.slot(top, 4, level, 0x4000);
        rig.poke(slot, 1 << 7 | 1 << low | RW);
        faults(&rig, 0x4000, Access::Read, 0xc);
    }
    let (rig, top) = mapped();
    rig.map(top, 0x4000, 0x8000 | 1 << 11, RW);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    let rig = Rig::with(VtdConfig {
        snoop_control: false,
        ..CONFIG
    });
    rig.enable();
    let top = rig.domain(NIC, 5);
    rig.map(top, 0x4000, 0x8000 | 1 << 11, RW);
    faults(&rig, 0x4000, Access::Read, 0xc);
}

#[test]
fn ignored_bits_of_page_table_entries_are_ignored() {
    let (rig, top) = mapped();
    let ignored = 1 << 63 | 0x3ff << 52 | 0x778;
    for level in 1..=4 {
        let slot = rig.slot(top, 4, level, 0x4000);
        rig.poke(slot, rig.peek(slot) | ignored);
    }
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    // An absent entry may hold anything.
    rig.map(top, 0x5000, !RW, 0);
    faults(&rig, 0x5000, Access::Read, 0x6);
}

#[test]
fn reason_eh_translation_into_the_interrupt_range() {
    let (rig, top) = mapped();
    rig.map(top, 0x5000, 0xfee0_0000, RW);
    rig.map(top, 0x6000, 0xfeef_f000, RW);
    rig.map(top, 0x7000, 0xfef0_0000, RW);
    faults(&rig, 0x5000, Access::Write, 0xe);
    faults(&rig, 0x6000, Access::Read, 0xe);
    faults(&rig, 0x6000, Access::Read, 0xe);
    assert_eq!(rig.write(NIC, 0x7000), Some(0xfef0_0000));
    // In a large page, only the part that is there.
    let slot = rig.slot(top, 4, 3, 0x8000_0000);
    rig.poke(slot, 0xc000_0000 | 1 << 7 | RW);
    faults(&rig, 0x8000_0000 + 0x3ee0_0123, Access::Write, 0xe);
    let last = 0x8000_0000 + 0x3edf_ff00;
    let to = rig.vtd.translate(NIC, last, 0x1000, Access::Write).unwrap();
    assert_eq!((to.gpa, to.len), (0xfedf_ff00, 0x100));
    disable_faults(&rig);
    faults_quietly(&rig, 0x5000, Access::Write);
    faults_quietly(&rig, 0x8000_0000 + 0x3ee0_0123, Access::Write);
}

#[test]
fn reason_30h_root_table_of_a_kind_not_offered() {
    for mode in 1..4 {
        let rig = Rig::new();
        rig.w64(offset::RTADDR, ROOT | mode << 10);
        rig.w32(offset::GCMD, SRTP);
        rig.w32(offset::GCMD, TE);
        faults(&rig, 0x1234, Access::Read, 0x30);
    }
}
