//! Every reason for which a request is blocked on the way to its PASID entry (VT-d 4.1 §7.1.3:
//! RTA, SRT, SCT, SPD and SPT), and what each records. Those of page tables are in
//! `reasons_of_stages`.

use super::*;

/// An access faults with `reason` and is recorded, as a request without PASID.
#[track_caller]
pub fn faults(rig: &Rig, iova: u64, access: Access, reason: u8) {
    let fault = rig.vtd.translate(NIC, iova, 4, access).unwrap_err();
    assert_eq!((fault.requester, fault.address), (NIC, iova));
    let at = offset::FRCD + 16 * u64::from(rig.r32(offset::FSTS) >> 8 & 0xff);
    let high = rig.r64(at + 8);
    // PV and AT; PP, EXE and PRIV.
    assert_eq!((high >> 40 & 0x3f_ffff, high >> 29 & 7), (0, 0));
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
pub fn faults_quietly(rig: &Rig, iova: u64, access: Access) {
    assert!(rig.vtd.translate(NIC, iova, 4, access).is_err());
    assert_eq!(rig.take_faults(), []);
}

/// A NIC with one page by second-stage tables.
fn mapped() -> (Scalable, u64) {
    let rig = Scalable::on();
    let top = rig.second(NIC, 5);
    rig.map(top, 0x4000, 0x8000, RW);
    (rig, top)
}

/// The entries on the way to the NIC's PASID entry that have FPD.
fn with_fault_disable(rig: &Scalable) -> [u64; 3] {
    let context = rig.context(NIC);
    [context, rig.peek(context) & !0xfff, rig.pasid(NIC)]
}

/// `faults`, and quiet with FPD in any of the first `entries` entries.
#[track_caller]
fn faults_qualified(rig: &Scalable, reason: u8, entries: usize) {
    faults(rig, 0x4000, Access::Read, reason);
    for at in &with_fault_disable(rig)[..entries] {
        let good = rig.peek(*at);
        rig.poke(*at, good | 2);
        faults_quietly(rig, 0x4000, Access::Read);
        rig.poke(*at, good);
    }
}

#[test]
fn reason_30h_scalable_root_table_that_is_not_offered() {
    let rig = Scalable::with(CONFIG);
    rig.pass_through(NIC, 5);
    faults(&rig, 0x4000, Access::Read, 0x30);
}

#[test]
fn reason_30h_root_table_of_a_kind_not_offered() {
    for mode in 2..4 {
        let rig = Rig::with(SCALABLE);
        rig.w64(offset::RTADDR, ROOT | mode << 10);
        rig.w32(offset::GCMD, SRTP);
        rig.w32(offset::GCMD, TE);
        faults(&rig, 0x4000, Access::Read, 0x30);
    }
}

#[test]
fn reason_38h_root_entry_cannot_be_read() {
    let rig = Rig::with(SCALABLE);
    rig.w64(offset::RTADDR, 1 << 40 | 1 << 10);
    rig.w32(offset::GCMD, SRTP);
    rig.w32(offset::GCMD, TE);
    faults(&rig, 0x4000, Access::Write, 0x38);
}

#[test]
fn reason_39h_half_of_the_root_entry_not_present() {
    let rig = Scalable::on();
    faults(&rig, 0x4000, Access::Read, 0x39);
    // The other half does not count.
    rig.pass_through(Bdf::new(0, 16, 0), 5);
    faults(&rig, 0x4000, Access::Write, 0x39);
    rig.pass_through(NIC, 5);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x4000));
    assert_eq!(rig.read(Bdf::new(0, 16, 0), 0x4000), Some(0x4000));
}

#[test]
fn reason_3ah_reserved_bits_in_half_of_the_root_entry() {
    let (rig, _) = mapped();
    let half = Scalable::half_root(NIC);
    let good = rig.peek(half);
    for bit in (1..12).chain(46..64) {
        rig.poke(half, good | 1 << bit);
        faults(&rig, 0x4000, Access::Read, 0x3a);
    }
    rig.poke(half, good);
    rig.poke(half + 8, !0);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
}

#[test]
fn reason_40h_context_entry_cannot_be_read() {
    let (rig, _) = mapped();
    rig.poke(Scalable::half_root(NIC), 1 << 40 | 1);
    faults(&rig, 0x4000, Access::Read, 0x40);
}

#[test]
fn reason_41h_context_entry_not_present() {
    let (rig, _) = mapped();
    let context = rig.context(NIC);
    rig.poke(context, 0);
    faults(&rig, 0x4000, Access::Read, 0x41);
    rig.poke(context, 2);
    faults_quietly(&rig, 0x4000, Access::Read);
}

#[test]
fn reason_42h_reserved_bits_in_the_context_entry() {
    let (rig, _) = mapped();
    let context = rig.context(NIC);
    // PASIDE and PRE among them: there are no requests with PASID, and no page requests.
    let low = (3..9).chain(46..64).map(|bit| (0, bit));
    let rest = (21..64).map(|bit| (1, bit));
    let upper = (0..128).map(|bit| (2 + bit / 64, bit % 64));
    for (quad, bit) in low.chain(rest).chain(upper) {
        let at = context + quad * 8;
        let good = rig.peek(at);
        rig.poke(at, good | 1 << bit);
        faults(&rig, 0x4000, Access::Read, 0x42);
        rig.poke(context, rig.peek(context) | 2);
        faults_quietly(&rig, 0x4000, Access::Read);
        rig.poke(context, rig.peek(context) & !2);
        rig.poke(at, good);
    }
}

#[test]
fn reason_42h_dte_and_rid_priv_where_they_are_not_offered() {
    let dte = |device_tlb| {
        let rig = Scalable::with(VtdConfig {
            device_tlb,
            ..SCALABLE
        });
        rig.pass_through(NIC, 5);
        rig.poke(rig.context(NIC), rig.peek(rig.context(NIC)) | 1 << 2);
        rig
    };
    faults(&dte(false), 0x4000, Access::Read, 0x42);
    assert_eq!(dte(true).read(NIC, 0x4000), Some(0x4000));
    let rig = Scalable::with(VtdConfig {
        first_stage: false,
        ..SCALABLE
    });
    rig.pass_through(NIC, 5);
    rig.poke(rig.context(NIC) + 8, 1 << 20);
    faults(&rig, 0x4000, Access::Read, 0x42);
}

#[test]
fn reason_48h_rid_pasid_past_the_end_of_the_directory() {
    let (rig, _) = mapped();
    let context = rig.context(NIC);
    for pdts in 0..7_u64 {
        let low = rig.peek(context) & !0xe00;
        rig.poke(context, low | pdts << 9);
        rig.poke(context + 8, 1 << (13 + pdts));
        faults_qualified(&rig, 0x48, 1);
    }
    // The largest directory has room for all.
    rig.poke(context, rig.peek(context) | 7 << 9);
    rig.poke(context + 8, 0xf_ffff);
    faults(&rig, 0x4000, Access::Read, 0x51);
}

#[test]
fn reason_50h_directory_entry_cannot_be_read() {
    let (rig, _) = mapped();
    let context = rig.context(NIC);
    rig.poke(context, 1 << 40 | 1);
    faults(&rig, 0x4000, Access::Read, 0x50);
    rig.poke(context, 1 << 40 | 3);
    faults(&rig, 0x4000, Access::Read, 0x50);
}

#[test]
fn reason_51h_directory_entry_not_present() {
    let (rig, _) = mapped();
    let [_, directory, _] = with_fault_disable(&rig);
    rig.poke(directory, rig.peek(directory) & !1);
    faults(&rig, 0x4000, Access::Read, 0x51);
    rig.poke(directory, 2);
    faults_quietly(&rig, 0x4000, Access::Read);
}

#[test]
fn reason_52h_reserved_bits_in_the_directory_entry() {
    let (rig, _) = mapped();
    let [_, directory, _] = with_fault_disable(&rig);
    let good = rig.peek(directory);
    for bit in (2..12).chain(46..64) {
        rig.poke(directory, good | 1 << bit);
        faults(&rig, 0x4000, Access::Read, 0x52);
        rig.poke(directory, good | 1 << bit | 2);
        faults_quietly(&rig, 0x4000, Access::Read);
    }
}

#[test]
fn reason_58h_pasid_entry_cannot_be_read() {
    let (rig, _) = mapped();
    let [_, directory, _] = with_fault_disable(&rig);
    rig.poke(directory, 1 << 40 | 1);
    faults(&rig, 0x4000, Access::Read, 0x58);
}

#[test]
fn reason_59h_pasid_entry_not_present() {
    let (rig, _) = mapped();
    rig.poke(rig.pasid(NIC), 0);
    faults_qualified(&rig, 0x59, 3);
}

#[test]
fn reason_5ah_reserved_bits_in_the_pasid_entry() {
    let (rig, _) = mapped();
    let at = rig.pasid(NIC);
    let low = [5, 9, 10, 11].into_iter().chain(46..64).map(|bit| (0, bit));
    let middle = (16..23).chain(25..64).map(|bit| (1, bit));
    let first = [1, 6, 7, 8, 9, 10, 11].map(|bit| (2, bit));
    let rest = (0..320).map(|bit| (3 + bit / 64, bit % 64));
    for (quad, bit) in low.chain(middle).chain(first).chain(rest) {
        let at = at + quad * 8;
        let good = rig.peek(at);
        rig.poke(at, good | 1 << bit);
        faults(&rig, 0x4000, Access::Read, 0x5a);
        rig.poke(at, good);
    }
    rig.poke(at + 24, 1);
    faults_qualified(&rig, 0x5a, 3);
    rig.poke(at + 24, 0);
    // PWSNP, PGSNP and the other stage, with NXE, which there is nothing to do for.
    rig.poke(at + 8, rig.peek(at + 8) | 3 << 23);
    rig.poke(at + 16, !0xfff | 0x3d);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
}

#[test]
fn reason_5ah_pgsnp_without_snoop_control() {
    let rig = Scalable::with(VtdConfig {
        snoop_control: false,
        ..SCALABLE
    });
    rig.set_pasid(NIC, [PASS | AW48 | 1, 1 << 24, 0]);
    faults(&rig, 0x4000, Access::Read, 0x5a);
}

#[test]
fn reason_5ah_tables_beyond_the_host_address_width() {
    let rig = Scalable::on();
    rig.set_pasid(NIC, [FIRST | 1, 5, 1 << 46]);
    faults(&rig, 0x4000, Access::Read, 0x5a);
    rig.set_pasid(NIC, [1 << 46 | NESTED | AW48 | 1, 5, 0]);
    faults(&rig, 0x4000, Access::Read, 0x5a);
    // Guest-physical: the second stage has its say.
    rig.set_pasid(NIC, [NESTED | AW48 | 1, 5, 1 << 48]);
    faults(&rig, 0x4000, Access::Read, 0x74);
    rig.contexts(1, 0, NIC, 0);
    rig.set_pasid(NIC, [NESTED | AW48 | 1, 5, 1 << 52]);
    faults(&rig, 0x4000, Access::Read, 0x5a);
    // Of the stage that is not used, nothing is looked at.
    rig.set_pasid(NIC, [!0xfff | PASS | AW48 | 1, 5, !0xfff]);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x4000));
}

#[test]
fn reason_5bh_translation_type_not_offered() {
    let rig = Scalable::on();
    for pgtt in [0, 5, 6, 7] {
        rig.set_pasid(NIC, [pgtt << 6 | AW48 | 1, 5, 0]);
        faults_qualified(&rig, 0x5b, 3);
    }
    let rig = Scalable::with(VtdConfig {
        first_stage: false,
        ..SCALABLE
    });
    for kind in [FIRST, NESTED] {
        rig.set_pasid(NIC, [kind | AW48 | 1, 5, 0]);
        faults(&rig, 0x4000, Access::Read, 0x5b);
    }
}

#[test]
fn reason_5bh_address_width_not_offered() {
    let rig = Scalable::with(VtdConfig {
        width: Width::Bits48,
        ..SCALABLE
    });
    for kind in [SECOND, NESTED, PASS] {
        for width in [0, 3, 4, 5, 6, 7] {
            rig.set_pasid(NIC, [kind | width << 2 | 1, 5, 0]);
            faults(&rig, 0x4000, Access::Read, 0x5b);
        }
    }
}

#[test]
fn reason_5bh_paging_mode_not_offered() {
    let rig = Scalable::with(VtdConfig {
        width: Width::Bits48,
        ..SCALABLE
    });
    for mode in 1..4 {
        rig.set_pasid(NIC, [FIRST | 1, 5, mode << 2]);
        faults(&rig, 0x4000, Access::Read, 0x5b);
    }
    let rig = Scalable::on();
    rig.set_pasid(NIC, [FIRST | 1, 5, 1 << 2]);
    faults(&rig, 0x4000, Access::Read, 0x71);
}

#[test]
fn reason_5dh_a_supervisors_request_without_sre() {
    let rig = Scalable::on();
    let top = rig.first(NIC, 5);
    rig.map_first(top, 0x4000, 0x8000, PWU);
    rig.poke(rig.context(NIC) + 8, 1 << 20);
    faults_qualified(&rig, 0x5d, 3);
    rig.poke(rig.pasid(NIC) + 16, top | 1);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
}

#[test]
fn the_pasid_of_requests_without_one_is_that_of_the_context_entry() {
    let (rig, top) = mapped();
    let context = rig.context(NIC);
    // PASID 0x1_2345: directory entry 0x48d, entry 5 of its table.
    let table = rig.table();
    let large = rig.table();
    for _ in 0..3 {
        rig.table();
    }
    rig.poke(context, large | 4 << 9 | 1);
    rig.poke(context + 8, 0x1_2345);
    rig.poke(large + 0x48d * 8, table | 1);
    rig.poke(table + 5 * 64 + 8, 6);
    rig.poke(table + 5 * 64, top | SECOND | AW48 | 1);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    rig.poke(table + 5 * 64, 0);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000), "cached");
    rig.contexts(3, 0, NIC, 0);
    faults(&rig, 0x4000, Access::Read, 0x59);
}
