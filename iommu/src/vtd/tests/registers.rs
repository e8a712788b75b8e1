use super::*;

#[test]
fn capability_says_what_is_offered() {
    let rig = Rig::with(VtdConfig {
        width: Width::Bits48,
        caching_mode: true,
        ..CONFIG
    });
    let cap = Capability(rig.r64(offset::CAP));
    assert_eq!(cap.widths(), 0b0110);
    assert_eq!(cap.max_width(), 47);
    assert_eq!(usize::from(cap.fault_records()) + 1, RECORDS);
    assert_eq!(u64::from(cap.fault_offset()) * 16, offset::FRCD);
    assert!(cap.write_drain() && cap.read_drain());
    assert!(cap.caching_mode() && cap.protected_low() && cap.protected_high());
    assert_eq!(rig.r32(offset::VER), 0x10);
}

#[test]
fn extended_capability_says_what_is_offered() {
    let ecap = |config| ExtendedCapability(Rig::with(config).r64(offset::ECAP));
    let all = ecap(CONFIG);
    assert!(all.queue() && all.interrupt_remapping() && all.extended_interrupts());
    assert!(all.pass_through() && all.snoop_control() && all.device_tlb());
    assert_eq!(u64::from(all.iotlb_offset()) * 16, offset::IVA);
    assert_eq!(all.0 >> 43 & 1, 0, "no scalable mode");
    let none = ecap(VtdConfig {
        interrupt_remapping: false,
        snoop_control: false,
        device_tlb: false,
        ..CONFIG
    });
    assert!(!none.interrupt_remapping() && !none.extended_interrupts());
    assert!(!none.snoop_control() && !none.device_tlb());
}

#[test]
fn constant_registers_stay() {
    let rig = Rig::new();
    for at in [offset::VER & !7, offset::CAP, offset::ECAP, offset::IQH] {
        let before = rig.r64(at);
        rig.w64(at, !before);
        assert_eq!(rig.r64(at), before, "{at:#x}");
    }
}

#[test]
fn gcmd_reads_as_zero_and_gsts_cannot_be_written() {
    let rig = Rig::new();
    rig.w32(offset::GCMD, TE | SRTP);
    assert_eq!(rig.r32(offset::GCMD), 0);
    rig.w32(offset::GSTS, 0);
    assert_eq!(rig.r32(offset::GSTS), TE | SRTP);
}

#[test]
fn srtp_is_one_shot_and_rtps_stays() {
    let rig = Rig::new();
    assert_eq!(rig.r32(offset::GSTS), 0);
    rig.w64(offset::RTADDR, 0x5000);
    assert_eq!(rig.vtd.state().root_table, 0);
    rig.w32(offset::GCMD, SRTP);
    assert_eq!(rig.r32(offset::GSTS), SRTP);
    rig.w64(offset::RTADDR, 0x6000);
    rig.w32(offset::GCMD, 0);
    assert_eq!(rig.r32(offset::GSTS), SRTP);
    assert_eq!(rig.vtd.state().root_table, 0x5000);
}

#[test]
fn te_follows_the_level() {
    let rig = Rig::new();
    rig.w32(offset::GCMD, TE);
    assert_eq!(rig.r32(offset::GSTS), TE);
    rig.w32(offset::GCMD, TE);
    assert_eq!(rig.take_translations(), [TranslationChange::All]);
    rig.w32(offset::GCMD, 0);
    assert_eq!(rig.r32(offset::GSTS), 0);
    assert_eq!(rig.take_translations(), [TranslationChange::All]);
}

#[test]
fn qie_starts_at_the_head_of_the_queue() {
    let rig = Rig::new();
    rig.enable_queue();
    assert_eq!(rig.r32(offset::GSTS), QIE);
    rig.submit(0x11, 0);
    assert_eq!(rig.r64(offset::IQH), 16);
    rig.w32(offset::GCMD, 0);
    assert_eq!(rig.r32(offset::GSTS), 0);
    assert_eq!(rig.r64(offset::IQH), 0);
}

#[test]
fn ire_and_cfi_follow_their_levels_and_sirtp_is_one_shot() {
    let rig = Rig::new();
    rig.w64(offset::IRTA, INTERRUPTS | 3);
    rig.w32(offset::GCMD, SIRTP);
    assert_eq!(rig.r32(offset::GSTS), SIRTP);
    assert_eq!(rig.vtd.state().interrupt_table, INTERRUPTS | 3);
    rig.w32(offset::GCMD, IRE | CFI);
    assert_eq!(rig.r32(offset::GSTS), SIRTP | IRE | CFI);
    rig.w32(offset::GCMD, IRE);
    assert_eq!(rig.r32(offset::GSTS), SIRTP | IRE);
    rig.w32(offset::GCMD, 0);
    assert_eq!(rig.r32(offset::GSTS), SIRTP);
    assert_eq!(rig.take_interrupts(), [None, None, None]);
}

#[test]
fn wbf_and_advanced_fault_logging_do_nothing() {
    let rig = Rig::new();
    rig.w32(offset::GCMD, 1 << 27 | 1 << 28 | 1 << 29);
    assert_eq!(rig.r32(offset::GSTS), 0);
    rig.w64(0x58, u64::MAX);
    assert_eq!(rig.r64(0x58), 0);
}

#[test]
fn without_interrupt_remapping_its_commands_do_nothing() {
    let rig = Rig::with(VtdConfig {
        interrupt_remapping: false,
        ..CONFIG
    });
    rig.w32(offset::GCMD, IRE | SIRTP | CFI);
    assert_eq!(rig.r32(offset::GSTS), 0);
    rig.w32(offset::FEUADDR, 0x100);
    assert_eq!(rig.r32(offset::FEUADDR), 0);
}

#[test]
fn reserved_bits_of_plain_registers_read_as_zero() {
    let rig = Rig::new();
    let writable = [
        (offset::RTADDR, !0x3ff),
        (offset::IQA, !0x7f8),
        (offset::IRTA, !0x7f0),
        (offset::IVA, !0xf80),
        (offset::IQT, 0x7_fff0),
        (offset::PHMBASE, !0xf_ffff),
        (offset::PHMLIMIT, !0xf_ffff),
        (offset::PLMBASE, 0xfff0_0000_fff0_0000),
        (offset::FEADDR, 0xffff_ffff_ffff_fffc),
        (offset::IEADDR, 0xffff_ffff_ffff_fffc),
        (offset::FECTL, 0x0000_ffff_8000_0000),
        (offset::IECTL, 0x0000_ffff_8000_0000),
    ];
    for (at, bits) in writable {
        rig.w64(at, u64::MAX);
        assert_eq!(rig.r64(at), bits, "{at:#x}");
        rig.w64(at, 0);
        assert_eq!(rig.r64(at), 0, "{at:#x}");
    }
}

#[test]
fn quadwords_may_be_written_in_halves() {
    let rig = Rig::new();
    for at in [offset::RTADDR, offset::IQA, offset::IRTA, offset::PHMBASE] {
        rig.w32(at + 4, 0x1234);
        rig.w32(at, 0x5670_0000);
        assert_eq!(rig.r64(at), 0x1234_5670_0000, "{at:#x}");
        assert_eq!(rig.r32(at + 4), 0x1234);
        assert_eq!(rig.vtd.read(at + 2, 2), 0x5670);
    }
}

#[test]
fn odd_accesses_do_no_harm() {
    let rig = Rig::new();
    rig.w64(offset::RTADDR, 0x1234_5000);
    for (at, len) in [
        (offset::RTADDR, 1),
        (offset::RTADDR, 2),
        (offset::RTADDR + 1, 4),
        (offset::RTADDR + 4, 8),
        (offset::RTADDR, 0),
        (offset::RTADDR, 16),
        (u64::MAX, 8),
        (!7, 8),
    ] {
        rig.vtd.write(at, len, 0xffff_ffff_ffff_ffff);
        rig.vtd.read(at, len);
    }
    assert_eq!(rig.r64(offset::RTADDR), 0x1234_5000);
    assert_eq!(rig.vtd.read(offset::RTADDR + 5, 8), 0);
}

#[test]
fn ccmd_reports_what_was_invalidated() {
    let rig = Rig::new();
    for granularity in 1..=3 {
        rig.w32(offset::CCMD, 7);
        rig.w32(offset::CCMD + 4, 1 << 31 | granularity << 29);
        let command = rig.r64(offset::CCMD);
        assert_eq!(command >> 63, 0, "done");
        assert_eq!(command >> 59 & 3, u64::from(granularity));
    }
    rig.w32(offset::CCMD + 4, 1 << 31);
    assert_eq!(rig.r64(offset::CCMD) >> 59 & 3, 0, "reserved granularity");
}

#[test]
fn iotlb_reports_what_was_invalidated() {
    let rig = Rig::new();
    rig.w64(offset::IVA, 0x5000 | 18);
    for granularity in 1..=3 {
        rig.w32(offset::IOTLB + 4, 1 << 31 | granularity << 28 | 9);
        let command = rig.r64(offset::IOTLB);
        assert_eq!(command >> 63, 0, "done");
        assert_eq!(command >> 57 & 3, u64::from(granularity));
    }
    rig.w32(offset::IOTLB + 4, 1 << 31);
    assert_eq!(rig.r64(offset::IOTLB) >> 57 & 3, 0, "reserved granularity");
    rig.w64(offset::IVA, 0x5000 | 19);
    rig.w32(offset::IOTLB + 4, 1 << 31 | 3 << 28);
    assert_eq!(rig.r64(offset::IOTLB) >> 57 & 3, 0, "more than MAMV");
}

#[test]
fn registers_invalidate_nothing_while_the_queue_runs() {
    let rig = Rig::new();
    rig.enable_queue();
    rig.w64(offset::CCMD, 1 << 63 | 1 << 61);
    rig.w64(offset::IOTLB, 1 << 63 | 1 << 60);
    assert_eq!(rig.r64(offset::CCMD) >> 59 & 3, 0);
    assert_eq!(rig.r64(offset::IOTLB) >> 57 & 3, 0);
    assert_eq!(rig.take_translations(), []);
}

#[test]
fn pmen_status_follows_enable() {
    let rig = Rig::new();
    rig.w32(offset::PMEN, 1 << 31);
    assert_eq!(rig.r32(offset::PMEN), 1 << 31 | 1);
    rig.w32(offset::PMEN, 1);
    assert_eq!(rig.r32(offset::PMEN), 0);
}

#[test]
fn irta_has_no_eime_without_eim() {
    let rig = Rig::with(VtdConfig {
        eim: false,
        ..CONFIG
    });
    rig.w64(offset::IRTA, u64::MAX);
    assert_eq!(rig.r64(offset::IRTA), !0xff0);
}

#[test]
fn reset_is_power_on() {
    let rig = Rig::new();
    let fresh = rig.vtd.state();
    let top = rig.domain(NIC, 5);
    rig.map(top, 0x4000, 0x8000, RW);
    rig.enable();
    rig.enable_interrupts(true, TE | IRE);
    rig.enable_queue();
    rig.unmask_fault_event();
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    assert_eq!(rig.read(NIC, 0x5000), None);
    rig.w32(offset::PMEN, 1 << 31);
    rig.submit(0xf, 0);
    assert_ne!(rig.vtd.state(), fresh);
    rig.vtd.reset();
    assert_eq!(rig.vtd.state(), fresh);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x4000));
    // Nothing is left in the caches.
    rig.poke(Rig::context_entry(NIC), 0);
    rig.enable();
    assert_eq!(rig.read(NIC, 0x4000), None);
}
