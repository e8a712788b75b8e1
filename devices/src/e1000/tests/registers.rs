use super::*;

#[test]
fn it_is_an_82540em() {
    let rig = Rig::new();
    let config = |at| rig.nic.read_config(Register::containing(at));
    assert_eq!(config(0), 0x100e_8086);
    assert_eq!(config(8) >> 8, 0x02_0000);
    assert_eq!(config(0x2c), 0x001e_8086);
    assert_eq!(config(0x3c) >> 8 & 0xff, 1);
    let size = |bar: u16| {
        let register = Register::containing(0x10 + 4 * bar);
        rig.nic
            .write_config(ConfigWrite::new(register, u32::MAX, 0xf));
        rig.nic.read_config(register)
    };
    assert_eq!(size(0), 0xfffe_0000);
    assert_eq!(size(1), 0xffff_ffc1);
    assert_eq!(size(2), 0);
}

#[test]
fn first_values_are_the_manuals() {
    let rig = Rig::new();
    assert_eq!(rig.read(offset::CTRL), 0x241);
    // Full duplex, link up, 1000 Mb/s.
    assert_eq!(rig.read(offset::STATUS) & 0xff, 0x83);
    assert_eq!(rig.read(offset::VET), 0x8100);
    assert_eq!(rig.read(offset::PBA), 0x0010_0030);
    assert_eq!(rig.read(offset::LEDCTL), 0x0706_8302);
    for at in [
        offset::RCTL,
        offset::TCTL,
        offset::ICR,
        offset::IMS,
        offset::RDH,
        offset::TDT,
    ] {
        assert_eq!(rig.read(at), 0, "{at:#x}");
    }
    assert_eq!(rig.read(offset::RA), 0x1200_5452);
    assert_eq!(rig.read(offset::RA + 4), 0x8000_5634);
    assert_eq!(rig.read(0x1_2345 & !3), 0);
}

#[test]
fn the_phy_is_found_through_mdic() {
    let rig = Rig::new();
    let mdic = |operation: u32, phy: u32, register: u32, data: u32| {
        rig.write(
            offset::MDIC,
            operation << 26 | phy << 21 | register << 16 | data,
        );
        rig.read(offset::MDIC)
    };
    assert_eq!(
        mdic(2, 1, 2, 0),
        1 << 28 | 2 << 26 | 1 << 21 | 2 << 16 | 0x0141
    );
    assert_eq!(mdic(2, 1, 3, 0) & 0xffff, 0x0c20);
    assert_eq!(mdic(1, 1, 4, 0x01e1) & 0xffff, 0x01e1);
    assert_eq!(mdic(2, 1, 4, 0) & 0xffff, 0x01e1);
    // No other PHY, no other operation.
    assert_ne!(mdic(2, 2, 2, 0) & 1 << 30, 0);
    assert_ne!(mdic(0, 1, 2, 0) & 1 << 30, 0);
    rig.write(offset::MDIC, 1 << 29 | 2 << 26 | 1 << 21);
    assert_eq!(rig.read(offset::ICR), 1 << 9);
}

#[test]
fn negotiation_ends_with_an_interrupt() {
    let rig = Rig::up();
    rig.write(offset::MDIC, 1 << 26 | 1 << 21 | 0x1340);
    assert_eq!(rig.read(offset::STATUS) & 2, 0);
    assert!(rig.asserted());
    assert_eq!(rig.read(offset::ICR), 4);
    let interest = rig.turn();
    assert_eq!(interest.deadline, Some(20_000_000));
    assert!(!interest.read, "no link, no packets");
    rig.sleep_until(20_000_000);
    assert!(rig.turn().read);
    assert!(rig.asserted());
    assert_eq!(rig.read(offset::ICR), 4);
    assert_eq!(rig.read(offset::STATUS) & 2, 2);
}

#[test]
fn a_software_reset_spares_phy_and_eeprom() {
    let rig = Rig::up();
    rig.write(offset::MDIC, 1 << 26 | 1 << 21 | 4 << 16 | 0x0123);
    rig.write(offset::RA, 0);
    rig.write(offset::MTA + 8, 5);
    rig.write(offset::PBA, 0x10);
    rig.write(offset::ICS, 4);
    assert!(rig.asserted());
    rig.write(offset::CTRL, 1 << 26 | 0x241);
    assert!(!rig.asserted());
    assert_eq!(rig.read(offset::CTRL), 0x241);
    for at in [
        offset::RCTL,
        offset::TDBAL,
        offset::TDLEN,
        offset::RDT,
        offset::MTA + 8,
    ] {
        assert_eq!(rig.read(at), 0, "{at:#x}");
    }
    assert_eq!(rig.read(offset::RA), 0x1200_5452);
    assert_eq!(rig.read(offset::PBA), 0x0010_0030);
    rig.write(offset::MDIC, 2 << 26 | 1 << 21 | 4 << 16);
    assert_eq!(rig.read(offset::MDIC) & 0xffff, 0x0123);
    // Config space is not its business.
    assert_eq!(rig.nic.read_config(Register::containing(4)) & 7, 7);
}

#[test]
fn a_pci_reset_is_a_power_on() {
    let mut rig = Rig::up();
    rig.write(offset::MDIC, 1 << 26 | 1 << 21 | 4 << 16 | 0x0123);
    rig.write(offset::ICS, 4);
    rig.nic.reset();
    assert!(!rig.asserted());
    assert_eq!(rig.nic.read_config(Register::containing(4)) & 7, 0);
    rig.write(offset::MDIC, 2 << 26 | 1 << 21 | 4 << 16);
    assert_eq!(rig.read(offset::MDIC) & 0xffff, 0x0de1);
    // No bus master: nothing is read.
    rig.set_up();
    rig.put(TX_BUFFERS, &outgoing(60));
    let index = rig.describe(u128::from(TX_BUFFERS) | 60 << 64 | 0x0b << 88);
    rig.ring_doorbell();
    rig.turn();
    assert!(!rig.sent(index));
    rig.nic
        .write_config(ConfigWrite::new(Register::containing(4), 7, 0xf));
    rig.turn();
    assert!(rig.sent(index));
}

#[test]
fn phy_reset_takes_the_link_down_for_a_while() {
    let rig = Rig::up();
    rig.write(offset::CTRL, 1 << 31 | 0x241);
    rig.write(offset::CTRL, 0x241);
    assert_eq!(rig.read(offset::STATUS) & 2, 0);
    rig.sleep_until(20_000_000);
    assert_eq!(rig.read(offset::STATUS) & 2, 2);
}

#[test]
fn ports_reach_the_same_registers() {
    let rig = Rig::new();
    let ports = rig.nic.region(PORTS).unwrap();
    ports.write(0, &offset::VET.to_le_bytes());
    let mut data = [0; 4];
    ports.read(4, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x8100);
    ports.write(4, &0x88a8u32.to_le_bytes());
    assert_eq!(rig.read(offset::VET), 0x88a8);
    ports.write(0, &u32::MAX.to_le_bytes());
    ports.read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), offset::VET);
}

#[test]
fn accesses_of_other_sizes() {
    let rig = Rig::new();
    rig.registers.write(u64::from(offset::VET), &[1, 2]);
    assert_eq!(rig.read(offset::VET), 0x8100);
    let mut wide = [0; 8];
    rig.registers.read(u64::from(offset::RA), &mut wide);
    assert_eq!(wide, [0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0x80]);
    let mut byte = [0; 1];
    rig.registers.read(u64::from(offset::VET) + 1, &mut byte);
    assert_eq!(byte, [0x81]);
    rig.registers
        .write(u64::from(offset::TDBAL), &[0x10, 0, 0, 0, 5, 0, 0, 0]);
    assert_eq!(
        (rig.read(offset::TDBAL), rig.read(offset::TDBAH)),
        (0x10, 5)
    );
    rig.registers.read(0x1_fffd, &mut wide);
}

#[test]
fn its_state_is_data() {
    fn serializable(_: &impl serde::Serialize) {}
    let rig = Rig::up();
    rig.inject(&frame(100));
    rig.turn();
    let state = rig.nic.state();
    serializable(&state);
    assert_eq!(
        (state.traffic.received, state.traffic.received_bytes),
        (1, 100)
    );
    assert_eq!(state.registers.rx.head(), 1);
    // Looking does not touch.
    assert_eq!(rig.read(offset::ICR), 0x80);
}

#[test]
fn an_idle_guest_reads_statistics_without_exits() {
    let rig = Rig::up();
    let mapped = || {
        let paths = rig.nic.fast_paths(MEMORY);
        paths.iter().any(|p| match p {
            FastPath::Mapped { offset, memory } => {
                assert_eq!((*offset, memory.len()), (0x4000, 4096));
                assert!(!memory.writable());
                true
            }
            _ => false,
        })
    };
    let read_all = || {
        (0x4000..0x4100)
            .step_by(4)
            .map(|at| rig.read(at))
            .sum::<u32>()
    };
    let changes = || rig.watcher.0.load(Ordering::SeqCst);
    rig.inject(&frame(100));
    rig.turn();
    rig.sleep_until(10_000_000_000);
    // Not before everything that was counted is read.
    rig.read(0x4074);
    assert!(!mapped() && changes() == 0);
    assert_ne!(read_all(), 0);
    assert!(mapped() && changes() == 1);
    read_all();
    rig.turn();
    assert_eq!(changes(), 1);
    // The first packet, even an unwanted one, ends it.
    rig.inject(&outgoing(100));
    rig.turn();
    assert!(!mapped() && changes() == 2);
    assert_eq!(rig.read(0x40d0), 1);
    // Not again while there is traffic.
    rig.inject(&frame(100));
    rig.turn();
    read_all();
    assert!(!mapped() && changes() == 2);
}
