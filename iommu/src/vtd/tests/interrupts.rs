//! Interrupt remapping (VT-d 4.1 §5.1, §9.10).

use super::*;

/// The address of a request for the entry `handle`.
fn address(handle: u64) -> u64 {
    0xfee0_0010 | (handle & 0x7fff) << 5 | (handle >> 15) << 2
}

fn request(handle: u64) -> MsiMessage {
    MsiMessage {
        address: address(handle),
        data: 0,
    }
}

fn with_subhandle(handle: u64, data: u32) -> MsiMessage {
    MsiMessage {
        address: address(handle) | 1 << 3,
        data,
    }
}

/// An entry for vector 0x31 at APIC 0x12, of anyone's.
const ENTRY: u64 = 0x12 << 40 | 0x31 << 16 | 1;
const EXTENDED_ENTRY: u64 = 0x12 << 32 | 0x31 << 16 | 1;

/// Remapping on, with 8-bit APIC ids and 256 entries.
fn on() -> Rig {
    let rig = Rig::new();
    rig.enable_interrupts(false, IRE);
    rig
}

/// Remapping on, with 32-bit APIC ids.
fn extended() -> Rig {
    let rig = Rig::new();
    rig.enable_interrupts(true, IRE);
    rig
}

#[track_caller]
fn blocked(rig: &Rig, message: MsiMessage, reason: u8, index: u64) {
    let fault = rig.vtd.remap(NIC, message).unwrap_err();
    assert_eq!((fault.requester, fault.address), (NIC, message.address));
    let record = Record {
        reason,
        source: NIC,
        info: index << 48,
        read: false,
    };
    assert_eq!(rig.take_faults(), [record]);
}

#[track_caller]
fn blocked_quietly(rig: &Rig, message: MsiMessage) {
    assert!(rig.vtd.remap(NIC, message).is_err());
    assert_eq!(rig.take_faults(), []);
}

#[test]
fn remapping_off_passes_everything() {
    let rig = Rig::new();
    for message in [request(3), with_subhandle(1, !0), MsiMessage::default()] {
        assert_eq!(rig.vtd.remap(NIC, message), Ok(message));
    }
}

#[test]
fn an_entry_says_where_the_interrupt_goes() {
    let rig = on();
    rig.set_entry(9, ENTRY, 0);
    let message = rig.vtd.remap(NIC, request(9)).unwrap();
    assert_eq!(message.address, 0xfee1_2000);
    assert_eq!(message.data, 0x31);
}

#[test]
fn every_field_of_an_entry_arrives() {
    let rig = on();
    for (bits, address, data) in [
        (1 << 2, 1 << 2, 0),  // DM
        (1 << 3, 1 << 3, 0),  // RH
        (1 << 4, 0, 3 << 14), // TM
        (1 << 5, 0, 1 << 8),  // DLM: lowest priority
        (4 << 5, 0, 4 << 8),  // NMI
        (7 << 5, 0, 7 << 8),  // ExtINT
        (0xf << 8, 0, 0),     // AVAIL
    ] {
        rig.set_entry(9, ENTRY | bits, 0);
        rig.w32(offset::GCMD, IRE | SIRTP);
        let message = rig.vtd.remap(NIC, request(9)).unwrap();
        assert_eq!(message.address, 0xfee1_2000 | address, "{bits:#x}");
        assert_eq!(message.data, 0x31 | data, "{bits:#x}");
    }
}

#[test]
fn large_apic_ids_are_in_the_high_half_of_the_address() {
    let rig = extended();
    rig.set_entry(9, 0x1234_5678 << 32 | 0x31 << 16 | 1, 0);
    let message = rig.vtd.remap(NIC, request(9)).unwrap();
    assert_eq!(message.address, 0x1234_5600_fee7_8000);
}

#[test]
fn subhandles_are_added_if_valid() {
    let rig = on();
    for index in 0..256 {
        rig.set_entry(index, ENTRY & !(0xff << 16) | index << 16, 0);
    }
    let vector = |message| rig.vtd.remap(NIC, message).unwrap().data;
    assert_eq!(vector(with_subhandle(0x20, 5)), 0x25);
    let ignored = MsiMessage {
        data: !0,
        ..request(0x20)
    };
    assert_eq!(vector(ignored), 0x20);
}

#[test]
fn handle_bit_15_is_address_bit_2() {
    let rig = Rig::new();
    rig.w64(offset::IRTA, INTERRUPTS | 15);
    rig.w32(offset::GCMD, SIRTP);
    rig.w32(offset::GCMD, IRE);
    rig.set_entry(0x8001, ENTRY, 0);
    assert!(rig.vtd.remap(NIC, request(0x8001)).is_ok());
    rig.set_entry(0xffff, ENTRY, 0);
    assert!(rig.vtd.remap(NIC, with_subhandle(0xfff0, 0xf)).is_ok());
    let fault = rig.vtd.remap(NIC, with_subhandle(0xffff, 1));
    assert!(fault.is_err());
    assert_eq!(rig.take_faults()[0].reason, 0x21);
}

#[test]
fn reason_20h_reserved_bits_in_the_request() {
    let rig = on();
    rig.set_entry(9, ENTRY, 0);
    for bit in 16..32 {
        blocked(&rig, with_subhandle(9, 1 << bit), 0x20, 0);
    }
    blocked(&rig, MsiMessage::default(), 0x20, 0);
    let high = MsiMessage {
        address: 1 << 32 | address(9),
        data: 0,
    };
    blocked(&rig, high, 0x20, 0);
}

#[test]
fn reason_20h_no_interrupt_request() {
    let rig = Rig::on();
    rig.vtd.illegal(NIC);
    assert_eq!(rig.take_faults(), [], "interrupts are not remapped");
    let rig = on();
    rig.vtd.illegal(NIC);
    let record = Record {
        reason: 0x20,
        source: NIC,
        info: 0,
        read: false,
    };
    assert_eq!(rig.take_faults(), [record]);
}

#[test]
fn reason_21h_index_past_the_end() {
    let rig = on();
    rig.set_entry(256, ENTRY, 0);
    blocked(&rig, request(256), 0x21, 256);
    blocked(&rig, with_subhandle(255, 1), 0x21, 256);
    blocked(&rig, request(0xffff), 0x21, 0xffff);
}

#[test]
fn reason_22h_entry_not_present() {
    let rig = on();
    blocked(&rig, request(9), 0x22, 9);
    rig.set_entry(9, 2, 0);
    blocked_quietly(&rig, request(9));
    rig.set_entry(9, ENTRY, 0);
    assert!(rig.vtd.remap(NIC, request(9)).is_ok(), "it was not cached");
}

#[test]
fn reason_23h_entry_cannot_be_read() {
    let rig = Rig::new();
    for table in [1 << 40, !0xfff] {
        rig.w64(offset::IRTA, table | 15);
        rig.w32(offset::GCMD, SIRTP | IRE);
        blocked(&rig, request(0x1009), 0x23, 0x1009);
    }
}

#[test]
fn reason_24h_reserved_bits_in_the_entry() {
    let rig = on();
    let low = (12..16).chain(24..32).chain(32..40).chain(48..64);
    let bits = low
        .map(|bit| (1_u64 << bit, 0))
        .chain((20..64).map(|bit| (0, 1 << bit)));
    for (low, high) in bits {
        rig.set_entry(9, ENTRY | low, high);
        blocked(&rig, request(9), 0x24, 9);
        rig.set_entry(9, ENTRY | low | 2, high);
        blocked_quietly(&rig, request(9));
    }
}

#[test]
fn reason_24h_reserved_values_in_the_entry() {
    let rig = on();
    for (low, high) in [(3 << 5, 0), (6 << 5, 0), (0, 3 << 18)] {
        rig.set_entry(9, ENTRY | low, high);
        blocked(&rig, request(9), 0x24, 9);
    }
}

#[test]
fn reason_25h_compatibility_format_blocked() {
    let plain = MsiMessage {
        address: 0xfee0_1000,
        data: 0x41,
    };
    let rig = on();
    blocked(&rig, plain, 0x25, 0);
    rig.w32(offset::GCMD, IRE | CFI);
    assert_eq!(rig.vtd.remap(NIC, plain), Ok(plain));
    rig.w32(offset::GCMD, IRE);
    blocked(&rig, plain, 0x25, 0);
    let rig = extended();
    rig.w32(offset::GCMD, IRE | CFI);
    assert_eq!(rig.r32(offset::GSTS) & CFI, CFI);
    blocked(&rig, plain, 0x25, 0);
}

/// Whether an entry with this high half admits a requester.
fn admits(high: u64, requester: Bdf) -> bool {
    let rig = on();
    rig.set_entry(9, ENTRY, high);
    let admitted = rig.vtd.remap(requester, request(9)).is_ok();
    let faults = rig.take_faults();
    match admitted {
        true => assert_eq!(faults, []),
        false => assert_eq!((faults[0].reason, faults[0].info), (0x26, 9 << 48)),
    }
    admitted
}

#[test]
fn reason_26h_source_not_verified() {
    let sid = u64::from(NIC.requester_id());
    assert!(admits(sid | 1 << 18, NIC));
    assert!(!admits(sid | 1 << 18, DISK));
    assert!(admits(sid, DISK), "SVT 00b");
    let rig = on();
    rig.set_entry(9, ENTRY | 2, (sid ^ 0x100) | 1 << 18);
    blocked_quietly(&rig, request(9));
}

#[test]
fn sq_leaves_out_function_bits() {
    for (sq, same) in [(0, 0), (1, 0b100), (2, 0b110), (3, 0b111_u16)] {
        for function in 0..8 {
            let requester = Bdf::new(0, 2, function);
            let sid = u64::from(NIC.requester_id());
            let admitted = u16::from(function) & !same == 0;
            assert_eq!(admits(sid | sq << 16 | 1 << 18, requester), admitted);
        }
        let other_device = Bdf::new(0, 3, 0);
        assert!(!admits(0x10 | sq << 16 | 1 << 18, other_device));
    }
}

#[test]
fn svt_10b_verifies_the_bus() {
    for (first, last, bus, admitted) in [
        (3, 5, 2, false),
        (3, 5, 3, true),
        (3, 5, 4, true),
        (3, 5, 5, true),
        (3, 5, 6, false),
        (5, 3, 4, false),
    ] {
        let high = first << 8 | last | 2 << 18;
        assert_eq!(admits(high, Bdf::new(bus, 7, 1)), admitted);
    }
}

#[test]
fn an_entry_is_served_until_it_is_invalidated() {
    for scope in [None, Some((9, 0)), Some((8, 1)), Some((0, 15))] {
        let rig = extended();
        rig.enable_queue();
        rig.set_entry(9, EXTENDED_ENTRY, 0);
        assert!(rig.vtd.remap(NIC, request(9)).is_ok());
        rig.set_entry(9, 0, 0);
        assert!(rig.vtd.remap(NIC, request(9)).is_ok());
        rig.take_interrupts();
        match scope {
            None => rig.submit(4, 0),
            Some((index, mask)) => rig.submit(4 | 1 << 4 | mask << 27 | index << 32, 0),
        }
        assert!(rig.vtd.remap(NIC, request(9)).is_err());
        let told = scope.map(|(index, mask)| index as u32..index as u32 + (1 << mask));
        assert_eq!(rig.take_interrupts(), [told]);
    }
}

#[test]
fn index_selective_invalidation_leaves_other_entries() {
    let rig = extended();
    rig.enable_queue();
    for index in 0..256 {
        rig.set_entry(index, EXTENDED_ENTRY, 0);
        assert!(rig.vtd.remap(NIC, request(index)).is_ok());
        rig.set_entry(index, 0, 0);
    }
    // Eight entries, whichever of them is named.
    rig.submit(4 | 1 << 4 | 3 << 27 | 0x25 << 32, 0);
    for index in 0..256 {
        let gone = (0x20..0x28).contains(&index);
        assert_eq!(rig.vtd.remap(NIC, request(index)).is_err(), gone);
    }
}

#[test]
fn setting_the_table_pointer_forgets_everything() {
    let rig = extended();
    rig.set_entry(9, EXTENDED_ENTRY, 0);
    assert!(rig.vtd.remap(NIC, request(9)).is_ok());
    rig.set_entry(9, 0, 0);
    assert!(rig.vtd.remap(NIC, request(9)).is_ok());
    rig.take_interrupts();
    rig.w32(offset::GCMD, IRE | SIRTP);
    assert!(rig.vtd.remap(NIC, request(9)).is_err());
    assert_eq!(rig.take_interrupts(), [None]);
}

#[test]
fn source_verification_is_not_cached_away() {
    let rig = extended();
    let sid = u64::from(NIC.requester_id());
    rig.set_entry(9, EXTENDED_ENTRY, sid | 1 << 18);
    assert!(rig.vtd.remap(NIC, request(9)).is_ok());
    assert!(rig.vtd.remap(DISK, request(9)).is_err());
    assert!(rig.vtd.remap(NIC, request(9)).is_ok());
}

#[test]
fn routes_are_found_without_a_record() {
    let rig = extended();
    assert_eq!(rig.vtd.route(NIC, request(9)), None);
    assert_eq!(rig.take_faults(), []);
    rig.set_entry(9, EXTENDED_ENTRY, 0);
    let route = rig.vtd.route(NIC, request(9));
    assert_eq!(route, rig.vtd.remap(NIC, request(9)).ok());
    assert!(route.is_some());
}
