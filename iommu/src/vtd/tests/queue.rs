//! The invalidation queue (VT-d 4.1 §6.5.2).

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const IQE: u32 = 1 << 4;

/// Status data in the high half of a wait, with SW.
fn wait(data: u32) -> u64 {
    5 | 1 << 5 | u64::from(data) << 32
}

fn stopped(rig: &Rig) -> Option<u64> {
    let set = rig.r32(offset::FSTS) & IQE != 0;
    set.then(|| rig.r64(offset::IQERCD) & 0xf)
}

fn queue() -> Rig {
    let rig = Rig::new();
    rig.enable_queue();
    rig
}

#[test]
fn wait_writes_its_status() {
    let rig = queue();
    rig.poke(0x9000, u64::MAX);
    rig.submit(wait(0x1234_5678), 0x9004);
    assert_eq!(rig.peek(0x9000), 0x1234_5678_ffff_ffff);
    assert_eq!(rig.r64(offset::IQH), 16);
    assert_eq!(stopped(&rig), None);
    assert_eq!(rig.take_messages(), []);
}

#[test]
fn wait_with_a_fence_and_nothing_else_is_fine() {
    let rig = queue();
    rig.submit(5 | 1 << 6, 0);
    assert_eq!((rig.r64(offset::IQH), stopped(&rig)), (16, None));
}

/// Unmasks the completion event as message 0x42.
fn unmask(rig: &Rig) -> MsiMessage {
    rig.w32(offset::IEDATA, 0x42);
    rig.w32(offset::IEADDR, 0xfee0_2000);
    rig.w32(offset::IEUADDR, 0x100);
    rig.w32(offset::IECTL, 0);
    MsiMessage {
        address: 0x100_fee0_2000,
        data: 0x42,
    }
}

#[test]
fn ics_iwc_is_set_by_a_wait_and_cleared_by_writing_one() {
    let rig = queue();
    let message = unmask(&rig);
    rig.submit(5 | 1 << 4, 0);
    assert_eq!(rig.r32(offset::ICS), 1);
    assert_eq!(rig.take_messages(), [message]);
    rig.submit(5 | 1 << 4, 0);
    assert_eq!(rig.take_messages(), [], "not acknowledged yet");
    rig.w32(offset::ICS, 0);
    assert_eq!(rig.r32(offset::ICS), 1);
    rig.w32(offset::ICS, 1);
    assert_eq!(rig.r32(offset::ICS), 0);
    rig.submit(5 | 1 << 4, 0);
    assert_eq!(rig.take_messages(), [message]);
}

#[test]
fn iectl_im_holds_the_event_and_ip_shows_it() {
    let rig = queue();
    let message = unmask(&rig);
    rig.w32(offset::IECTL, 1 << 31);
    rig.submit(5 | 1 << 4, 0);
    assert_eq!(rig.r32(offset::IECTL), 3 << 30);
    assert_eq!(rig.take_messages(), []);
    rig.w32(offset::IECTL, 0);
    assert_eq!(rig.r32(offset::IECTL), 0);
    assert_eq!(rig.take_messages(), [message]);
}

#[test]
fn iectl_ip_is_cleared_with_iwc() {
    let rig = queue();
    rig.submit(5 | 1 << 4, 0);
    assert_eq!(rig.r32(offset::IECTL), 3 << 30);
    rig.w32(offset::ICS, 1);
    assert_eq!(rig.r32(offset::IECTL), 1 << 31);
    unmask(&rig);
    assert_eq!(rig.take_messages(), []);
}

#[test]
fn the_sink_has_followed_before_the_wait_completes() {
    let rig = queue();
    rig.poke(0x9000, 0);
    let seen = Arc::new(AtomicU64::new(99));
    let (memory, at) = (rig.memory.clone(), seen.clone());
    *rig.sink.watch.lock().unwrap() = Some(Box::new(move || {
        let status: u32 = memory.read_obj(GuestAddress(0x9000)).unwrap();
        at.store(status.into(), Ordering::SeqCst);
    }));
    // Both in the queue before it looks.
    rig.poke(QUEUE, 0x12);
    rig.poke(QUEUE + 16, wait(7));
    rig.poke(QUEUE + 24, 0x9000);
    rig.w64(offset::IQT, 32);
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    assert_eq!(rig.peek(0x9000), 7);
}

#[test]
fn descriptors_run_in_order_and_the_queue_wraps() {
    let rig = queue();
    for i in 0..1000 {
        rig.submit(wait(i), 0x9000);
        assert_eq!(rig.peek(0x9000), u64::from(i));
    }
    assert_eq!(rig.r64(offset::IQH), 1000 * 16 % 0x1000);
}

#[test]
fn what_is_queued_before_qie_runs_when_it_is_set() {
    let rig = Rig::new();
    rig.poke(QUEUE, wait(3));
    rig.poke(QUEUE + 8, 0x9000);
    rig.w64(offset::IQA, QUEUE);
    rig.w64(offset::IQT, 16);
    assert_eq!(rig.peek(0x9000), 0);
    rig.w32(offset::GCMD, QIE);
    assert_eq!(rig.peek(0x9000), 3);
}

#[test]
fn iqei_1h_tail_past_the_end() {
    let rig = queue();
    rig.w64(offset::IQT, 0x1000);
    assert_eq!(stopped(&rig), Some(1));
    assert_eq!(rig.r64(offset::IQH), 0);
}

#[test]
fn iqei_2h_descriptor_cannot_be_read() {
    let rig = Rig::new();
    rig.w64(offset::IQA, 1 << 40);
    rig.w32(offset::GCMD, QIE);
    rig.w64(offset::IQT, 16);
    assert_eq!(stopped(&rig), Some(2));
    rig.vtd.reset();
    rig.w64(offset::IQA, !0xfff);
    rig.w32(offset::GCMD, QIE);
    rig.w64(offset::IQT, 0xff0);
    assert_eq!(stopped(&rig), Some(2));
}

#[test]
fn iqei_3h_descriptors_of_no_type() {
    let types = (0..0x80).filter(|t| !(1..=5).contains(t));
    for kind in types {
        let rig = queue();
        rig.submit(kind & 0xf | kind >> 4 << 9, 0);
        assert_eq!(stopped(&rig), Some(3), "{kind:#x}");
    }
    let rig = Rig::with(VtdConfig {
        device_tlb: false,
        interrupt_remapping: false,
        ..CONFIG
    });
    for kind in [3, 4] {
        rig.vtd.reset();
        rig.enable_queue();
        rig.poke(QUEUE, kind);
        rig.w64(offset::IQT, 16);
        assert_eq!(stopped(&rig), Some(3));
    }
}

#[test]
fn iqei_4h_reserved_bits_of_every_descriptor() {
    // A valid descriptor, and the bits of either half that may not be set in it.
    let context = (0x31, !0x0003_ffff_ffff_0e3f, !0);
    let iotlb = (0x32, !0xffff_0eff, 0xf80);
    let device = (3, !0x0000_ffff_001f_0e0f, 0xffe);
    let entries = (4, !0x0000_ffff_f800_0e1f, !0);
    let wait = (5, !0xffff_ffff_0000_0e7f_u64, 3);
    for (low, in_low, in_high) in [context, iotlb, device, entries, wait] {
        let rig = queue();
        rig.submit(low, 0);
        assert_eq!(stopped(&rig), None, "{low:#x}");
        for bit in (0..64).map(|bit| 1_u64 << bit) {
            let in_halves = [(in_low & bit, 0), (0, in_high & bit)];
            for (in_low, in_high) in in_halves.into_iter().filter(|&bits| bits != (0, 0)) {
                let rig = queue();
                rig.submit(low | in_low, in_high);
                assert_eq!(stopped(&rig), Some(4), "{low:#x} {in_low:#x} {in_high:#x}");
                assert_eq!(rig.r64(offset::IQH), 0);
            }
        }
    }
}

#[test]
fn iqei_4h_reserved_values() {
    for (low, high) in [
        (1, 0),               // Context: no granularity.
        (2, 0),               // IOTLB: no granularity.
        (0x32, 19),           // AM beyond MAMV.
        (0x14 | 16 << 27, 0), // IM beyond MHMV.
    ] {
        let rig = queue();
        rig.submit(low, high);
        assert_eq!(stopped(&rig), Some(4), "{low:#x}");
    }
}

#[test]
fn iqei_5h_wide_descriptors_where_there_are_none() {
    let rig = Rig::new();
    rig.w64(offset::IQA, QUEUE | 1 << 11);
    rig.w32(offset::GCMD, QIE);
    assert_eq!(stopped(&rig), Some(5));
}

fn wide() -> Rig {
    let rig = Rig::with(VtdConfig {
        wide_descriptors: true,
        ..CONFIG
    });
    rig.w64(offset::IQA, QUEUE | 1 << 11);
    rig.w32(offset::GCMD, QIE);
    rig
}

#[test]
fn iqei_6h_misaligned_tail() {
    let rig = wide();
    rig.w64(offset::IQT, 16);
    assert_eq!(stopped(&rig), Some(6));
}

#[test]
fn wide_descriptors_have_reserved_upper_halves() {
    let rig = wide();
    rig.poke(QUEUE, wait(8));
    rig.poke(QUEUE + 8, 0x9000);
    rig.w64(offset::IQT, 32);
    assert_eq!((rig.peek(0x9000), rig.r64(offset::IQH)), (8, 32));
    rig.poke(QUEUE + 32, wait(9));
    rig.poke(QUEUE + 40, 0x9000);
    rig.poke(QUEUE + 56, 1);
    rig.w64(offset::IQT, 64);
    assert_eq!((stopped(&rig), rig.r64(offset::IQH)), (Some(4), 32));
}

#[test]
fn the_queue_stops_at_an_error_until_it_is_cleared() {
    let rig = queue();
    rig.submit(wait(1), 0x9000);
    rig.submit(0xf, 0);
    rig.submit(wait(2), 0x9000);
    assert_eq!(rig.peek(0x9000), 1);
    assert_eq!(rig.r64(offset::IQH), 16);
    // Software repairs the descriptor that the head is at.
    rig.poke(QUEUE + 16, 0x12);
    rig.w64(offset::IQT, 48);
    assert_eq!(rig.peek(0x9000), 1);
    rig.w32(offset::FSTS, IQE);
    assert_eq!(rig.peek(0x9000), 2);
    assert_eq!(rig.r64(offset::IQH), 48);
    assert_eq!(rig.r64(offset::IQERCD), 0);
}

#[test]
fn an_error_not_repaired_comes_again() {
    let rig = queue();
    let message = rig.unmask_fault_event();
    rig.submit(0xf, 0);
    assert_eq!(rig.take_messages(), [message]);
    rig.w32(offset::FSTS, IQE);
    assert_eq!(stopped(&rig), Some(3));
    assert_eq!(rig.take_messages(), [message]);
}

#[test]
fn status_that_cannot_be_written_stops_the_queue() {
    for address in [1 << 40, !3, RAM as u64] {
        let rig = queue();
        rig.submit(wait(1), address);
        assert!(stopped(&rig).is_some());
    }
}

/// A Device-TLB invalidation descriptor but for its address: SID and Max Invs Pend.
fn device_tlb(function: Bdf, pending: u64) -> u64 {
    3 | pending << 16 | u64::from(function.requester_id()) << 32
}

#[test]
fn device_tlb_invalidation_is_taken() {
    let rig = queue();
    rig.submit(device_tlb(NIC, 4), 0x7000 | 1);
    assert_eq!((stopped(&rig), rig.r64(offset::IQH)), (None, 16));
    assert_eq!(rig.take_translations(), []);
}

#[test]
fn device_tlbs_of_any_function_are_invalidated_at_once() {
    // The NIC has a context entry with a Device-TLB, the disk one without, the last has none.
    let rig = Rig::on();
    rig.enable_queue();
    rig.set_context(NIC, rig.table() | 1 << 2 | 1, 2);
    rig.set_context(DISK, rig.table() | 1, 2);
    for (data, function) in (1..).zip([NIC, DISK, Bdf::new(0xff, 31, 7)]) {
        rig.submit(device_tlb(function, 1), 0x7000);
        rig.submit(wait(data), 0x9000);
        assert_eq!(rig.peek(0x9000), u64::from(data), "{function}");
        assert_eq!(rig.r32(offset::FSTS), 0, "neither ITE nor ICE");
        assert_eq!(rig.r64(offset::IQERCD), 0);
    }
    assert_eq!(rig.take_faults(), []);
}

#[test]
fn device_tlb_invalidations_may_be_of_any_size_and_depth() {
    // With S, 8 KiB and each power of two more: up to all, which the ATS message says with
    // all address bits but the highest, and even with that.
    let sizes = (12..=63).map(|zero| u64::MAX >> 1 >> (63 - zero) & !0xfff | 1);
    let rig = queue();
    for address in sizes.chain([!0xfff | 1, 0, !0xfff]) {
        for pending in 0..32 {
            rig.submit(device_tlb(NIC, pending), address);
            assert_eq!(stopped(&rig), None, "{pending} {address:#x}");
        }
    }
}

#[test]
fn iqei_4h_physical_functions_of_device_tlbs_are_for_throttling() {
    let rig = queue();
    assert_eq!(rig.r64(offset::ECAP) >> 41 & 1, 0, "DIT");
    // A function's own PFSID, in two parts.
    let id = u64::from(NIC.requester_id());
    rig.submit(device_tlb(NIC, 1) | (id & 0xf) << 12 | id >> 4 << 52, 0);
    assert_eq!((stopped(&rig), rig.r64(offset::IQH)), (Some(4), 0));
}

/// The unit holds a page that is in no table any more.
fn stale_page() -> Rig {
    let rig = Rig::on();
    rig.enable_queue();
    let top = rig.domain(NIC, 5);
    rig.map(top, 0x4000, 0x8000, RW);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000));
    rig.take_translations();
    rig.map(top, 0x4000, 0, 0);
    rig
}

/// All three at once, as software may queue them.
#[test]
fn a_device_tlb_is_invalidated_after_the_unit_and_who_follows_it() {
    let rig = stale_page();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let (vtd, memory, seen) = (Arc::downgrade(&rig.vtd), rig.memory.clone(), heads.clone());
    *rig.sink.watch.lock().unwrap() = Some(Box::new(move || {
        let head = vtd.upgrade().unwrap().read(offset::IQH, 8);
        let status: u32 = memory.read_obj(GuestAddress(0x9000)).unwrap();
        seen.lock().unwrap().push((head, status));
    }));
    rig.poke(0x9000, 0);
    for (at, quad) in (QUEUE..).step_by(8).zip([
        0x32 | 5 << 16,
        0x4000,
        device_tlb(NIC, 1),
        0x4000,
        wait(7),
        0x9000,
    ]) {
        rig.poke(at, quad);
    }
    rig.w64(offset::IQT, 48);
    assert_eq!(*heads.lock().unwrap(), [(0, 0)], "at the IOTLB, once");
    assert_eq!((rig.peek(0x9000), rig.r64(offset::IQH)), (7, 48));
    assert_eq!(rig.read(NIC, 0x4000), None);
}

/// Software that asks for no more has not changed what the unit holds.
#[test]
fn a_device_tlb_alone_leaves_the_unit_as_it_is() {
    let rig = stale_page();
    rig.submit(device_tlb(NIC, 1), 0x4000);
    assert_eq!(rig.read(NIC, 0x4000), Some(0x8000), "the IOTLB's still");
    assert_eq!(rig.take_translations(), []);
}

#[test]
fn queue_sizes_are_powers_of_two_of_a_page() {
    for qs in 0..8 {
        let rig = Rig::new();
        rig.w64(offset::IQA, QUEUE | qs);
        rig.w32(offset::GCMD, QIE);
        let size = 0x1000 << qs;
        let mut at = 0;
        while at < size {
            rig.poke(QUEUE + at, 0x12);
            at += 16;
        }
        rig.w64(offset::IQT, size - 16);
        assert_eq!((rig.r64(offset::IQH), stopped(&rig)), (size - 16, None));
        rig.w64(offset::IQT, 0);
        assert_eq!(rig.r64(offset::IQH), 0);
        if qs < 7 {
            rig.w64(offset::IQT, size);
            assert_eq!(stopped(&rig), Some(1));
        }
    }
}
