//! Recording of faults and the fault event (VT-d 4.1 §7.2, §7.3, §11.4.7).

use super::*;

const PFO: u32 = 1;
const PPF: u32 = 2;
const IQE: u32 = 1 << 4;

fn first(rig: &Rig) -> u32 {
    rig.r32(offset::FSTS) >> 8 & 0xff
}

fn fault_at(rig: &Rig, page: u64) {
    assert_eq!(rig.read(NIC, page << 12), None);
}

fn clear(rig: &Rig, record: u64) {
    rig.w32(offset::FRCD + 16 * record + 12, 1 << 31);
}

#[test]
fn ppf_is_set_while_any_record_is_pending() {
    let rig = Rig::on();
    assert_eq!(rig.r32(offset::FSTS) & PPF, 0);
    fault_at(&rig, 1);
    fault_at(&rig, 2);
    assert_eq!(rig.r32(offset::FSTS) & PPF, PPF);
    rig.w32(offset::FSTS, PPF);
    assert_eq!(rig.r32(offset::FSTS) & PPF, PPF, "read only");
    clear(&rig, 0);
    assert_eq!(rig.r32(offset::FSTS) & PPF, PPF);
    clear(&rig, 1);
    assert_eq!(rig.r32(offset::FSTS) & PPF, 0);
}

#[test]
fn fri_is_the_first_pending_record() {
    let rig = Rig::on();
    fault_at(&rig, 1);
    fault_at(&rig, 2);
    assert_eq!(first(&rig), 0);
    clear(&rig, 0);
    clear(&rig, 1);
    fault_at(&rig, 3);
    assert_eq!(first(&rig), 2);
    fault_at(&rig, 4);
    assert_eq!(first(&rig), 2);
}

#[test]
fn frcd_f_is_cleared_by_writing_one() {
    let rig = Rig::on();
    fault_at(&rig, 1);
    let high = offset::FRCD + 8;
    let before = rig.r64(high);
    rig.w64(high, before & !(1 << 63));
    rig.w64(offset::FRCD, u64::MAX);
    assert_eq!(rig.r64(high), before);
    rig.w64(high, 1 << 63);
    assert_eq!(rig.r64(high), before & !(1 << 63));
    assert_eq!(rig.r64(offset::FRCD), 0x1000);
}

#[test]
fn pfo_is_set_when_a_fault_finds_no_record() {
    let rig = Rig::on();
    for page in 0..RECORDS as u64 {
        fault_at(&rig, page);
    }
    assert_eq!(rig.r32(offset::FSTS) & PFO, 0);
    fault_at(&rig, 100);
    assert_eq!(rig.r32(offset::FSTS) & PFO, PFO);
    let pages: Vec<_> = rig.take_faults().iter().map(|r| r.info >> 12).collect();
    assert_eq!(pages, (0..RECORDS as u64).collect::<Vec<_>>());
}

#[test]
fn while_pfo_is_set_nothing_is_recorded() {
    let rig = Rig::on();
    for page in 0..=RECORDS as u64 {
        fault_at(&rig, page);
    }
    for record in 0..RECORDS as u64 {
        clear(&rig, record);
    }
    fault_at(&rig, 200);
    assert_eq!(rig.r32(offset::FSTS) & (PFO | PPF), PFO);
    rig.w32(offset::FSTS, PFO);
    assert_eq!(rig.r32(offset::FSTS) & (PFO | PPF), 0);
    fault_at(&rig, 201);
    assert_eq!(rig.r32(offset::FSTS) & (PFO | PPF), PPF);
    assert_eq!(rig.take_faults()[0].info, 201 << 12);
}

#[test]
fn records_are_used_in_turn_past_the_last_one() {
    let rig = Rig::on();
    for page in 0..3 * RECORDS as u64 + 3 {
        fault_at(&rig, page);
        assert_eq!(u64::from(first(&rig)), page % RECORDS as u64);
        assert_eq!(rig.take_faults()[0].info, page << 12);
    }
}

#[test]
fn the_same_fault_is_pending_once() {
    let rig = Rig::on();
    for _ in 0..100 {
        fault_at(&rig, 1);
    }
    assert_eq!(rig.r32(offset::FSTS) & PFO, 0);
    assert_eq!(rig.take_faults().len(), 1);
    fault_at(&rig, 1);
    assert_eq!(rig.take_faults().len(), 1);
}

#[test]
fn fault_event_is_sent_at_the_first_condition_only() {
    let rig = Rig::on();
    let message = rig.unmask_fault_event();
    fault_at(&rig, 1);
    assert_eq!(rig.take_messages(), [message]);
    fault_at(&rig, 2);
    assert_eq!(rig.take_messages(), []);
    clear(&rig, 0);
    fault_at(&rig, 3);
    assert_eq!(rig.take_messages(), [], "one is pending still");
    rig.take_faults();
    fault_at(&rig, 4);
    assert_eq!(rig.take_messages(), [message]);
}

#[test]
fn fectl_im_holds_the_event_and_ip_shows_it() {
    let rig = Rig::on();
    let message = rig.unmask_fault_event();
    rig.w32(offset::FECTL, 1 << 31);
    fault_at(&rig, 1);
    assert_eq!(rig.take_messages(), []);
    assert_eq!(rig.r32(offset::FECTL), 3 << 30);
    rig.w32(offset::FECTL, 0);
    assert_eq!(rig.take_messages(), [message]);
    assert_eq!(rig.r32(offset::FECTL), 0);
    rig.w32(offset::FECTL, 0);
    assert_eq!(rig.take_messages(), []);
}

#[test]
fn fectl_ip_is_cleared_when_all_conditions_are() {
    let rig = Rig::on();
    assert_eq!(rig.r32(offset::FECTL), 1 << 31, "masked at first");
    fault_at(&rig, 1);
    fault_at(&rig, 2);
    clear(&rig, 0);
    assert_eq!(rig.r32(offset::FECTL), 3 << 30);
    clear(&rig, 1);
    assert_eq!(rig.r32(offset::FECTL), 1 << 31);
    rig.w32(offset::FECTL, 0);
    assert_eq!(rig.take_messages(), []);
}

#[test]
fn fectl_ip_stays_while_pfo_is_set() {
    let rig = Rig::on();
    for page in 0..=RECORDS as u64 {
        fault_at(&rig, page);
    }
    for record in 0..RECORDS as u64 {
        clear(&rig, record);
    }
    assert_eq!(rig.r32(offset::FECTL), 3 << 30);
    rig.w32(offset::FSTS, PFO);
    assert_eq!(rig.r32(offset::FECTL), 1 << 31);
}

#[test]
fn fault_event_takes_its_upper_address_with_eim() {
    let rig = Rig::on();
    rig.unmask_fault_event();
    rig.w32(offset::FEUADDR, 0x1200);
    fault_at(&rig, 1);
    assert_eq!(rig.take_messages()[0].address, 0x1200_fee0_1000);
}

#[test]
fn fault_event_is_not_remapped() {
    let rig = Rig::on();
    rig.enable_interrupts(true, TE | IRE);
    let message = rig.unmask_fault_event();
    fault_at(&rig, 1);
    assert_eq!(rig.take_messages(), [message]);
}

#[test]
fn iqe_is_a_condition_of_the_fault_event() {
    let rig = Rig::on();
    let message = rig.unmask_fault_event();
    rig.enable_queue();
    rig.submit(0, 0);
    assert_eq!(rig.r32(offset::FSTS), IQE);
    assert_eq!(rig.take_messages(), [message]);
    fault_at(&rig, 1);
    assert_eq!(rig.take_messages(), [], "IQE is there already");
}

#[test]
fn iqe_is_cleared_by_writing_one() {
    let rig = Rig::on();
    rig.enable_queue();
    rig.submit(0, 0);
    rig.w32(offset::FSTS, !IQE);
    assert_eq!(rig.r32(offset::FSTS), IQE);
    rig.poke(QUEUE, 0x11);
    rig.w32(offset::FSTS, IQE);
    assert_eq!(rig.r32(offset::FSTS), 0);
}

#[test]
fn ice_and_ite_and_what_advanced_logging_sets_stay_zero() {
    let rig = Rig::on();
    rig.w32(offset::FSTS, u32::MAX);
    assert_eq!(rig.r32(offset::FSTS), 0);
}
