use super::*;

#[test]
fn translation_off_is_identity() {
    let rig = Rig::new();
    for iova in [0, 0xfee0_0000, u64::MAX] {
        let to = rig.vtd.translate(NIC, iova, 0x5000, Access::Write).unwrap();
        assert_eq!((to.gpa, to.len), (iova, 0x5000));
    }
}

#[test]
fn every_width_and_page_length_translates() {
    for (aw, levels) in [(1, 3), (2, 4), (3, 5)] {
        for level in 1..=3_u8 {
            let rig = Rig::on();
            let top = rig.table();
            rig.set_context(NIC, top | 1, aw);
            let len = 0x1000_u64 << (9 * (level - 1));
            let iova = (1 << (levels * 9 + 12)) - 3 * len;
            let gpa = 0x20_0000_0000;
            rig.poke(rig.slot(top, levels, level, iova), gpa | 1 << 7 | RW);
            let to = rig
                .vtd
                .translate(NIC, iova + 0x123, u64::MAX, Access::Read)
                .unwrap();
            assert_eq!((to.gpa, to.len), (gpa + 0x123, len - 0x123));
            let last = rig.vtd.translate(NIC, iova + len - 1, 8, Access::Write);
            assert_eq!(last.unwrap().len, 1);
            assert_eq!(rig.read(NIC, iova + len), None);
            assert_eq!(rig.read(NIC, iova - 1), None);
        }
    }
}

#[test]
fn requesters_have_their_own_tables() {
    let rig = Rig::on();
    for (i, requester) in [NIC, DISK, Bdf::new(255, 31, 7)].into_iter().enumerate() {
        let top = rig.domain(requester, i as u16);
        rig.map(top, 0x4000, 0x10_0000 * (i as u64 + 1), RW);
    }
    assert_eq!(rig.read(NIC, 0x4000), Some(0x10_0000));
    assert_eq!(rig.read(DISK, 0x4000), Some(0x20_0000));
    assert_eq!(rig.read(Bdf::new(255, 31, 7), 0x4000), Some(0x30_0000));
    assert_eq!(rig.read(Bdf::new(255, 31, 6), 0x4000), None);
}

#[test]
fn device_tlb_contexts_translate_like_others() {
    let rig = Rig::on();
    let top = rig.table();
    rig.map(top, 0x4000, 0x8000, RW);
    rig.set_context(NIC, top | 1 << 2 | 1, 2);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
}

#[test]
fn pass_through_is_identity_up_to_its_width() {
    let rig = Rig::on();
    rig.set_context(NIC, !0xfff | 2 << 2 | 1, 1);
    for _ in 0..2 {
        let to = rig.vtd.translate(NIC, 0x1234, 0x5000, Access::Write);
        assert_eq!(to.map(|to| (to.gpa, to.len)), Ok((0x1234, 0x5000)));
        let end = (1 << 39) - 4;
        assert_eq!(rig.vtd.translate(NIC, end, 8, Access::Read).unwrap().len, 4);
    }
}

#[test]
fn the_interrupt_range_is_never_translated() {
    let rig = Rig::on();
    let top = rig.domain(NIC, 5);
    rig.map(top, 0xfee0_1000, 0x8000, RW);
    for requester in [NIC, DISK] {
        let to = rig
            .vtd
            .translate(requester, 0xfee0_1004, 0x20_0000, Access::Write)
            .unwrap();
        assert_eq!((to.gpa, to.len), (0xfee0_1004, 0xf_effc));
    }
    rig.set_context(NIC, 2 << 2 | 1, 2);
    rig.contexts(1, 0, NIC, 0);
    let to = rig.vtd.translate(NIC, 0xfedf_fff0, 0x40, Access::Write);
    assert_eq!(to.unwrap().len, 0x10);
    assert_eq!(rig.take_faults(), []);
}

#[test]
fn a_read_of_no_length_may_go_where_writes_may() {
    let rig = Rig::on();
    let top = rig.domain(NIC, 5);
    rig.map(top, 0x4000, 0x8000, W);
    let to = rig.vtd.translate(NIC, 0x4000, 0, Access::Read).unwrap();
    assert_eq!((to.gpa, to.len), (0x8000, 0));
    assert_eq!(rig.read(NIC, 0x4000), None);
}

/// Protects 2 MiB at 4 MiB, and 1 MiB at 5 GiB.
fn protect(rig: &Rig) {
    rig.w32(offset::PLMBASE, 0x40_0000);
    rig.w32(offset::PLMLIMIT, 0x50_0000);
    rig.w64(offset::PHMBASE, 5 << 30);
    rig.w64(offset::PHMLIMIT, 5 << 30);
    rig.w32(offset::PMEN, 1 << 31);
}

fn reaches(rig: &Rig, address: u64) -> Option<u64> {
    let to = rig.vtd.translate(NIC, address, 1 << 40, Access::Write);
    to.ok().map(|to| to.len)
}

#[test]
fn protected_memory_is_out_of_reach_without_translation() {
    let rig = Rig::new();
    protect(&rig);
    assert_eq!(reaches(&rig, 0x3f_ff00), Some(0x100));
    assert_eq!(reaches(&rig, 0x40_0000), None);
    assert_eq!(reaches(&rig, 0x5f_ffff), None);
    assert_eq!(reaches(&rig, 0x60_0000), Some(0xfee0_0000 - 0x60_0000));
    assert_eq!(reaches(&rig, (5 << 30) - 1), Some(1));
    assert_eq!(reaches(&rig, 5 << 30), None);
    assert_eq!(reaches(&rig, (5 << 30) + (1 << 20)), Some(1 << 40));
    assert_eq!(rig.take_faults(), [], "not recorded");
    rig.w32(offset::PMEN, 0);
    assert_eq!(reaches(&rig, 0x40_0000), Some(1 << 40));
}

#[test]
fn protected_memory_is_out_of_reach_of_pass_through_only() {
    let rig = Rig::on();
    protect(&rig);
    rig.set_context(NIC, 2 << 2 | 1, 2);
    for _ in 0..2 {
        assert_eq!(reaches(&rig, 0x40_0000), None);
        assert_eq!(reaches(&rig, 0x1000), Some(0x3f_f000));
    }
    let top = rig.domain(DISK, 5);
    rig.map(top, 0x4000, 0x40_0000, RW);
    assert_eq!(rig.write(DISK, 0x4000), Some(0x40_0000));
    assert_eq!(rig.take_faults(), []);
}

#[test]
fn a_limit_below_its_base_protects_nothing() {
    let rig = Rig::new();
    rig.w32(offset::PLMBASE, 0x40_0000);
    rig.w32(offset::PLMLIMIT, 0x30_0000);
    rig.w64(offset::PHMBASE, 2 << 20);
    rig.w64(offset::PHMLIMIT, 1 << 20);
    rig.w32(offset::PMEN, 1 << 31);
    assert_eq!(reaches(&rig, 0x40_0000), Some(1 << 40));
}

#[test]
fn tables_that_loop_end_in_a_page_or_a_fault() {
    let rig = Rig::on();
    let top = rig.table();
    rig.attach(NIC, 5, top);
    for i in 0..512 {
        rig.poke(top + 8 * i, top | RW);
    }
    // The lowest level takes the table for a page.
    assert_eq!(rig.read(NIC, 0x7_1234_5678), Some(top + 0x678));
    for i in 0..512 {
        rig.poke(top + 8 * i, top | 1 << 7 | RW);
    }
    rig.iotlb(1, 0, 0);
    assert_eq!(rig.read(NIC, 0x7_1234_5678), None);
}
