use pci::InterruptPin;
use proptest::prelude::*;

use super::*;
use crate::platform::fakes::{FakeAlarm, FakeClock};
use crate::platform::intx;
use crate::platform::ioapic::{IoApic, IoApicConfig, IoApicOutput};
use crate::platform::pic::{Intr, Pic};

struct Nobody;

impl Intr for Nobody {
    fn set(&self, _: bool) {}
}

impl IoApicOutput for Nobody {
    fn deliver(&self, _: u8, _: pci::MsiMessage) {}
    fn route(&self, _: u8, _: Option<pci::MsiMessage>) {}
}

fn bridge() -> (LpcBridge, Arc<IntxRouter>, Arc<Pic>) {
    let pic = Arc::new(Pic::new(Arc::new(Nobody)));
    let ioapic = Arc::new(IoApic::new(IoApicConfig {
        output: Arc::new(Nobody),
        clock: Arc::new(FakeClock::default()),
        alarm: Arc::new(FakeAlarm::default()),
    }));
    let router = Arc::new(IntxRouter::new(&pic, &ioapic));
    (LpcBridge::new(router.clone()), router, pic)
}

fn read(lpc: &LpcBridge, offset: u16) -> u32 {
    lpc.read_config(Register::containing(offset))
}

fn write(lpc: &LpcBridge, offset: u16, value: u32) -> Changes {
    lpc.write_config(ConfigWrite::new(Register::containing(offset), value, 0xf))
}

fn write_byte(lpc: &LpcBridge, offset: u16, value: u8) -> Changes {
    let (shift, enable) = (8 * u32::from(offset & 3), 1 << (offset & 3));
    let value = u32::from(value) << shift;
    lpc.write_config(ConfigWrite::new(
        Register::containing(offset),
        value,
        enable,
    ))
}

#[test]
fn is_an_ich9() {
    let (lpc, ..) = bridge();
    assert_eq!(read(&lpc, 0x00), 0x2918_8086);
    assert_eq!(read(&lpc, 0x08), 0x0601_0002);
    assert_eq!(read(&lpc, 0x04) & 0xffff, 0x0007);
    write(&lpc, 0x04, 0);
    assert_eq!(read(&lpc, 0x04) & 0xffff, 0x0007);
    assert_eq!(read(&lpc, offset::PMBASE), 1);
    assert_eq!(read(&lpc, offset::PIRQ_A_ROUTE), 0x8080_8080);
    assert_eq!(read(&lpc, offset::PIRQ_E_ROUTE), 0x8080_8080);
    assert_eq!(read(&lpc, offset::RCBA), 0);
    for bar in (0x10..0x28).step_by(4) {
        write(&lpc, bar, 0xffff_ffff);
        assert_eq!(read(&lpc, bar), 0);
    }
}

#[test]
fn pmbase_is_decoded_when_acpi_is_enabled() {
    let (lpc, ..) = bridge();
    assert_eq!(write(&lpc, offset::PMBASE, 0xffff_0601), Changes::empty());
    assert_eq!(read(&lpc, offset::PMBASE), 0xff01 & 0x0601);
    assert_eq!(lpc.pm_base(), None);
    assert_eq!(write_byte(&lpc, offset::ACPI_CNTL, 0x87), Changes::CHIPSET);
    assert_eq!(read(&lpc, offset::ACPI_CNTL), 0x80);
    assert_eq!(lpc.pm_base(), Some(0x600));
    assert_eq!(write(&lpc, offset::PMBASE, 0xb001), Changes::CHIPSET);
    assert_eq!(lpc.pm_base(), Some(0xb000));
    assert_eq!(write(&lpc, offset::PMBASE, 0xb07f), Changes::empty());
    assert_eq!(write_byte(&lpc, offset::ACPI_CNTL, 0), Changes::CHIPSET);
    assert_eq!(lpc.pm_base(), None);
}

#[test]
fn rcba_is_decoded_when_enabled() {
    let (lpc, ..) = bridge();
    assert_eq!(write(&lpc, offset::RCBA, 0xfed1_c000), Changes::empty());
    assert_eq!(lpc.rcba(), None);
    assert_eq!(write(&lpc, offset::RCBA, 0xfed1_ffff), Changes::CHIPSET);
    assert_eq!(lpc.rcba(), Some(0xfed1_c000));
}

#[test]
fn pirqs_are_routed_to_inputs_that_can_take_them() {
    let (lpc, router, pic) = bridge();
    pic.set_level(3, false);
    router.line(2, InterruptPin::IntA).set(false);
    let line = router.line(2, InterruptPin::IntA); // PIRQG
    line.set(true);
    assert_eq!(
        write_byte(&lpc, offset::PIRQ_E_ROUTE + 2, 0x0b),
        Changes::ROUTING
    );
    assert_eq!(lpc.pirq_route(6), Some(11));
    assert_eq!(pic.state().slave.lines, 0x08);
    for forbidden in [0, 1, 2, 8, 13] {
        write_byte(&lpc, offset::PIRQ_E_ROUTE + 2, forbidden);
        assert_eq!(lpc.pirq_route(6), None);
        assert_eq!(pic.state().slave.lines, 0);
    }
    assert_eq!(
        write(&lpc, offset::PIRQ_A_ROUTE, 0x0b0a_8003),
        Changes::ROUTING
    );
    let routes = [0, 1, 2, 3, 8].map(|n| lpc.pirq_route(n));
    assert_eq!(routes, [Some(3), None, Some(10), Some(11), None]);
}

#[test]
fn the_root_complex_says_how_it_is_wired() {
    let (lpc, ..) = bridge();
    let region = lpc.root_complex();
    let get = |offset: u64, len: usize| {
        let mut data = [0; 4];
        region.read(offset, &mut data[..len]);
        u32::from_le_bytes(data)
    };
    region.write(0x3410, &[0; 4]);
    assert_eq!(get(0x3410, 4) >> 5 & 1, 1, "NO_REBOOT");
    for (device, register) in [(31, 0x3140), (29, 0x3144), (28, 0x3146), (27, 0x3148)] {
        for pin in 0..4 {
            let says = get(register, 2) >> (4 * pin) & 7;
            let wired = intx::pirq(device, InterruptPin::from_index(pin as u8));
            assert_eq!(says, u32::from(wired));
        }
    }
    region.read(u64::MAX, &mut [0; 1]);
}

#[test]
fn nothing_survives_reset() {
    let (lpc, router, pic) = bridge();
    let fresh = lpc.state();
    let line = router.line(DEVICE, InterruptPin::IntA);
    line.set(true);
    for offset in (0x40..0x100).step_by(4) {
        write(&lpc, offset, 0x0b0b_0b8b);
    }
    write_byte(&lpc, offset::PIRQ_A_ROUTE, 0x0b);
    assert_ne!(lpc.state(), fresh);
    assert_eq!(pic.state().slave.lines, 0x08);
    lpc.reset();
    assert_eq!(lpc.state(), fresh);
    assert_eq!(pic.state().slave.lines, 0);
}

proptest! {
    #[test]
    fn changes_are_told(writes in prop::collection::vec((0_u16..0x40, any::<u32>()), 0..100)) {
        let (lpc, ..) = bridge();
        for (register, value) in writes {
            let before = lpc.state();
            let changes = write(&lpc, register * 4, value);
            let after = lpc.state();
            let moved = (before.pm_base, before.rcba) != (after.pm_base, after.rcba);
            prop_assert_eq!(changes.contains(Changes::CHIPSET), moved);
            let routed = before.pirq_routes != after.pirq_routes;
            prop_assert_eq!(changes.contains(Changes::ROUTING), routed);
        }
    }
}
