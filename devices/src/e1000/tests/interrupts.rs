use super::*;
use crate::e1000::interrupts::LOOK;

#[test]
fn masks_in_the_kernel_hold_an_interrupt_back() {
    let rig = Rig::up();
    rig.inject(&frame(60));
    rig.write_later(offset::IMC, u32::MAX);
    rig.turn();
    assert!(!rig.asserted(), "the mask came first");
    assert_eq!(rig.read(offset::IMS), 0);
    rig.write(offset::IMS, 0x80);
    assert!(rig.asserted());
    // And a mask that comes later takes it away.
    rig.write_later(offset::IMC, 0x80);
    assert!(rig.asserted());
    rig.turn();
    assert!(!rig.asserted());
    assert_eq!(rig.read(offset::ICR), 0x80);
}

#[test]
fn an_unmask_in_the_kernel_lets_the_next_cause_through() {
    let rig = Rig::up();
    rig.write(offset::IMC, u32::MAX);
    assert_eq!(rig.turn().deadline, None, "nothing is pending");
    rig.write_later(offset::IMS, 0x80);
    rig.inject(&frame(60));
    rig.turn();
    assert!(rig.asserted());
}

#[test]
fn an_unmask_in_the_kernel_is_found_soon() {
    let rig = Rig::up();
    rig.write(offset::IMC, u32::MAX);
    rig.inject(&frame(60));
    let due = rig.turn().deadline.unwrap();
    assert!(due <= LOOK);
    // The driver never reads anything.
    rig.write_later(offset::IMS, 0x80);
    assert!(!rig.asserted());
    rig.sleep_until(due);
    assert_eq!(rig.turn().deadline, None);
    assert!(rig.asserted());
}

#[test]
fn a_cause_that_a_mask_uncovers_makes_the_thread_look() {
    let rig = Rig::up();
    rig.turn();
    rig.write(offset::ICS, 0x80);
    let _ = rig.nic.nic.kick.read();
    // The wire falls, and the cause is still there for an IMS that may wait.
    rig.write(offset::IMC, u32::MAX);
    assert!(!rig.asserted());
    assert!(rig.nic.nic.kick.read().is_ok());
    assert_eq!(rig.turn().deadline, Some(LOOK));
}

#[test]
fn throttling_is_honoured_and_the_thread_wakes_for_it() {
    let rig = Rig::up();
    rig.write(offset::ITR, 1000);
    rig.sleep_until(1_000_000);
    rig.inject(&frame(60));
    rig.turn();
    assert!(rig.asserted());
    rig.read(offset::ICR);
    rig.sleep_until(1_100_000);
    rig.inject(&frame(60));
    let interest = rig.turn();
    assert!(!rig.asserted());
    assert_eq!(interest.deadline, Some(1_000_000 + 256_000));
    rig.sleep_until(1_256_000);
    assert_eq!(rig.turn().deadline, None);
    assert!(rig.asserted());
    assert_eq!(rig.nic.traffic().interrupts, 2);
}

#[test]
fn unmasking_what_is_throttled_wakes_the_thread() {
    let rig = Rig::up();
    rig.write(offset::ITR, 1000);
    rig.write(offset::ICS, 4);
    rig.read(offset::ICR);
    rig.write(offset::IMC, 4);
    rig.write(offset::ICS, 4);
    assert_eq!(rig.turn().deadline, Some(LOOK));
    let _ = rig.nic.nic.kick.read();
    rig.write(offset::IMS, 4);
    assert!(!rig.asserted());
    assert!(
        rig.nic.nic.kick.read().is_ok(),
        "somebody has to watch the clock"
    );
    assert_eq!(rig.turn().deadline, Some(256_000));
}

#[test]
fn a_ping_takes_one_interrupt() {
    let mut rig = Rig::up();
    rig.put(TX_BUFFERS, &outgoing(98));
    rig.write(offset::TIDV, 8);
    rig.write(offset::TADV, 32);
    for _ in 0..10 {
        let before = rig.nic.traffic().interrupts;
        // EOP, RS, IDE; the answer comes 100 µs later.
        rig.describe(u128::from(TX_BUFFERS) | 98 << 64 | 0x8b << 88);
        rig.ring_doorbell();
        rig.turn();
        rig.sleep_until(rig.nic.nic.now() + 100_000);
        rig.turn();
        rig.inject(&frame(98));
        rig.turn();
        assert!(rig.asserted());
        assert_eq!(rig.read(offset::ICR), 0x83);
        let head = rig.read(offset::RDH);
        rig.write_later(offset::RDT, (head + COUNT - 2) % COUNT);
        rig.sleep_until(rig.nic.nic.now() + 1_000_000_000);
        rig.turn();
        assert_eq!(rig.nic.traffic().interrupts - before, 1);
    }
}

#[test]
fn packets_taken_while_masked_do_not_interrupt_again() {
    let rig = Rig::up();
    rig.inject(&frame(60));
    rig.turn();
    rig.read(offset::ICR);
    rig.write(offset::IMC, u32::MAX);
    // More come while the driver polls, and it takes them all.
    rig.inject(&frame(60));
    rig.inject(&frame(60));
    rig.turn();
    rig.write(offset::RDT, (3 + COUNT - 2) % COUNT);
    rig.write(offset::IMS, 0x80);
    assert!(!rig.asserted());
    // It left one behind: at once.
    rig.write(offset::IMC, u32::MAX);
    rig.inject(&frame(60));
    rig.inject(&frame(60));
    rig.turn();
    rig.write(offset::RDT, (4 + COUNT - 2) % COUNT);
    rig.write(offset::IMS, 0x80);
    assert!(rig.asserted());
}

#[test]
fn pci_can_disable_the_wire() {
    let rig = Rig::up();
    let command = Register::containing(4);
    rig.write(offset::ICS, 4);
    assert!(rig.asserted());
    assert_eq!(rig.nic.read_config(command) >> 19 & 1, 1);
    rig.nic.write_config(ConfigWrite::new(command, 0x407, 0x3));
    assert!(!rig.asserted());
    // Still pending, and seen to be.
    assert_eq!(rig.nic.read_config(command) >> 19 & 1, 1);
    rig.nic.write_config(ConfigWrite::new(command, 0x007, 0x3));
    assert!(rig.asserted());
    rig.read(offset::ICR);
    assert_eq!(rig.nic.read_config(command) >> 19 & 1, 0);
}

#[test]
fn which_writes_may_wait_in_the_kernel() {
    let rig = Rig::new();
    let ranges = rig
        .nic
        .fast_paths(MEMORY)
        .into_iter()
        .map(|path| match path {
            FastPath::Coalesced { offset, len } => offset..offset + len,
            _ => panic!("an 82540EM has no other"),
        });
    let ranges: Vec<_> = ranges.collect();
    let waits = |at: u32| ranges.iter().any(|r| r.contains(&u64::from(at)));
    for at in [
        offset::IMC,
        offset::IMS,
        offset::RDT,
        offset::ITR,
        offset::MTA,
        offset::RA + 124,
        offset::VFTA,
    ] {
        assert!(waits(at), "{at:#x}");
    }
    for at in [
        offset::TDT,
        offset::ICR,
        offset::RCTL,
        offset::CTRL,
        offset::ICS,
    ] {
        assert!(!waits(at), "{at:#x}");
    }
    assert!(rig.nic.fast_paths(PORTS).is_empty());
}
