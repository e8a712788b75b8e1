//! The descriptors of scalable mode (VT-d 4.1 §6.5.2).

use super::*;

const IQE: u32 = 1 << 4;

fn stopped(rig: &Rig) -> Option<u64> {
    let set = rig.r32(offset::FSTS) & IQE != 0;
    set.then(|| rig.r64(offset::IQERCD) & 0xf)
}

/// What becomes of a descriptor in a new queue of wide ones.
fn submitted(config: VtdConfig, quads: [u64; 4]) -> (Option<u64>, Vec<TranslationChange>) {
    let rig = Scalable::with(config);
    rig.enable_wide_queue();
    rig.take_translations();
    for (at, quad) in (0..).step_by(8).zip(quads) {
        rig.poke(QUEUE + at, quad);
    }
    rig.w64(offset::IQT, 32);
    (stopped(&rig), rig.take_translations())
}

#[test]
fn wide_descriptors_come_with_scalable_mode() {
    let wait = 5 | 1 << 5 | 7 << 32;
    let rig = Scalable::on();
    rig.enable_wide_queue();
    rig.submit_wide(wait, 0x9000);
    rig.submit_wide(0x11, 0);
    rig.submit_wide(0x12, 0);
    assert_eq!(rig.peek(0x9000), 7);
    assert_eq!(rig.r64(offset::IQH), 96);
}

#[test]
fn iqei_3h_descriptors_of_no_type() {
    for kind in (0..0x80).filter(|kind| !(1..=8).contains(kind)) {
        let low = kind & 0xf | kind >> 4 << 9;
        assert_eq!(submitted(SCALABLE, [low, 0, 0, 0]).0, Some(3), "{kind:#x}");
    }
    let config = VtdConfig {
        device_tlb: false,
        ..SCALABLE
    };
    for kind in [3, 8] {
        assert_eq!(submitted(config, [kind, 0, 0, 0]).0, Some(3));
    }
    let config = VtdConfig {
        wide_descriptors: true,
        ..CONFIG
    };
    for low in [0x26, 0x37, 8] {
        assert_eq!(submitted(config, [low, 0, 0, 0]).0, Some(3));
    }
}

#[test]
fn iqei_3h_descriptors_with_pasids_that_are_not_wide() {
    for low in [0x26, 0x37, 8] {
        let rig = Scalable::on();
        rig.enable_queue();
        rig.submit(low, 0);
        assert_eq!(stopped(&rig), Some(3));
    }
}

#[test]
fn iqei_4h_reserved_bits_of_every_descriptor() {
    // A valid descriptor, and the bits of its lower half that may not be set in it.
    let pages = (0x36, !0x000f_ffff_ffff_0e3f_u64, 0xf80);
    let entries = (0x37, !0x000f_ffff_ffff_0e3f, !0);
    let device = (8, !0x000f_ffff_ffff_0fff, 0x7fe);
    for (low, in_low, in_high) in [pages, entries, device] {
        assert_eq!(submitted(SCALABLE, [low, 0, 0, 0]).0, None, "{low:#x}");
        for bit in (0..64).map(|bit| 1_u64 << bit) {
            let wrong = [
                [in_low & bit, 0, 0, 0],
                [0, in_high & bit, 0, 0],
                [0, 0, bit, 0],
                [0, 0, 0, bit],
            ];
            for [a, b, c, d] in wrong.into_iter().filter(|wrong| *wrong != [0; 4]) {
                let (error, told) = submitted(SCALABLE, [low | a, b, c, d]);
                assert_eq!((error, told), (Some(4), vec![]), "{low:#x} {a:x} {b:x}");
            }
        }
    }
}

#[test]
fn iqei_4h_granularities_that_there_are_not() {
    for low in [0x06, 0x16, 0x27] {
        assert_eq!(submitted(SCALABLE, [low, 0, 0, 0]).0, Some(4), "{low:#x}");
    }
}

#[test]
fn the_sink_hears_what_may_have_changed() {
    let told = |low, high| submitted(SCALABLE, [low, high, 0, 0]);
    let once = |change| (None, vec![change]);
    let (domain, pasid) = (0x1234, 0x5_6789);
    let of = u64::from(domain) << 16 | u64::from(pasid) << 32;
    let first = TranslationChange::Pasid { domain, pasid };
    assert_eq!(told(0x26 | of, 0), once(first));
    assert_eq!(told(0x36 | of, 0x7000 | 3), once(first));
    assert_eq!(told(0x36 | of, 63), once(first));
    assert_eq!(told(0x07 | of, 0), once(TranslationChange::Domain(domain)));
    assert_eq!(told(0x17 | of, 0), once(TranslationChange::Domain(domain)));
    assert_eq!(told(0x37 | of, 0), once(TranslationChange::All));
    // Context entries are in no domain.
    assert_eq!(told(0x21, 0), once(TranslationChange::All));
    assert_eq!(told(8, 0x7000), (None, vec![]));
}

#[test]
fn device_tlbs_may_be_asked_with_and_without_pasids() {
    // SID and Max Invs Pend are elsewhere with a PASID. G asks for all PASIDs.
    let id = u64::from(NIC.requester_id());
    for (low, high) in [
        (3 | 31 << 16 | id << 32, 0x7000 | 1),
        (8 | 31 << 4 | id << 16 | 0xf_ffff << 32, 0x7000 | 1 << 11),
        (8 | id << 16, !0xfff | 1 << 11 | 1),
    ] {
        let asked = submitted(SCALABLE, [low, high, 0, 0]);
        assert_eq!(asked, (None, vec![]), "{low:#x}");
    }
    let physical = 8 | (id & 0xf) << 12 | id >> 4 << 52;
    assert_eq!(submitted(SCALABLE, [physical, 0, 0, 0]).0, Some(4));
}

#[test]
fn a_change_of_first_stage_tables_concerns_nobody_in_a_domain() {
    let change = TranslationChange::Pasid {
        domain: 5,
        pasid: 0,
    };
    assert!(change.concerns(NIC, None));
    assert!(!change.concerns(NIC, Some(5)));
}
