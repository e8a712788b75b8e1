use super::*;
use crate::vfio::backend::IrqKind;
use crate::vfio::fake::{Call, FakeInput};

const MSI_CONTROL: u16 = 0xd2;
const MSIX_CONTROL: u16 = 0xa2;
const ENABLE_MSIX: u16 = 0x8000;
const INTERRUPT_DISABLE: u16 = 0x0400;

/// An e1000e whose pin is wired to an input.
fn wired(hardware: FakeBackend) -> (Rig, FakeInput) {
    let rig = Rig::new(hardware);
    let input = FakeInput::default();
    rig.device.wire_intx(Arc::new(input.clone()));
    (rig, input)
}

fn enable_msi(rig: &Rig) {
    rig.write(0xd4, 0xfee0_0000);
    rig.write(0xdc, 0x41);
    rig.write_u16(MSI_CONTROL, 1);
}

#[test]
fn a_wired_pin_is_shown_and_armed_from_the_start() {
    let rig = Rig::e1000e();
    assert_eq!(rig.read(0x3c) >> 8 & 0xff, 1);
    assert_eq!(rig.hardware.enabled(), None);
    let (rig, input) = wired(e1000e());
    assert_eq!(rig.hardware.enabled(), Some((IrqKind::Intx, 1)));
    assert!(rig.device.state().intx.armed);
    rig.hardware.set_pin(true);
    assert!(input.is_asserted());
}

#[test]
fn a_device_without_a_pin_or_whose_pin_the_kernel_does_not_signal_has_none() {
    for (pin, count) in [(0, 1), (1, 0), (9, 1)] {
        let mut hardware = e1000e();
        hardware.poke_config(0x3d, &[pin]);
        hardware.intx.count = count;
        let rig = Rig::new(hardware);
        assert_eq!(rig.device.interrupt_pin(), None);
        assert_eq!(rig.read(0x3c) >> 8 & 0xff, 0);
        assert_eq!(rig.hardware.config_u16(4) & INTERRUPT_DISABLE, 0x400);
    }
}

#[test]
fn a_level_stays_until_the_guest_has_served_the_device() {
    let (rig, input) = wired(e1000e());
    rig.hardware.set_pin(true);
    assert!(input.is_asserted());
    input.serve();
    assert!(!input.is_asserted(), "until the kernel has looked");
    assert!(rig.hardware.hear_unmask());
    assert!(input.is_asserted(), "the device still asserts");
    rig.hardware.set_pin(false);
    input.serve();
    assert!(rig.hardware.hear_unmask());
    assert!(!input.is_asserted());
    rig.hardware.set_pin(true);
    assert!(input.is_asserted());
}

#[test]
fn a_kernel_driver_that_hears_no_event_is_called() {
    let mut hardware = e1000e();
    hardware.hears_unmask = false;
    let (rig, input) = wired(hardware);
    rig.hardware.set_pin(true);
    assert!(input.is_asserted());
    rig.hardware.calls();
    input.serve();
    assert_eq!(rig.hardware.calls(), [Call::Unmask]);
    assert!(input.is_asserted());
    rig.hardware.set_pin(false);
    input.serve();
    assert!(!input.is_asserted());
}

#[test]
fn accesses_to_bars_unmask_nothing() {
    let (rig, input) = wired(e1000e());
    rig.hardware.set_pin(true);
    assert!(input.is_asserted());
    rig.hardware.hear_unmask();
    rig.hardware.calls();
    rig.bar_read(0, 0xc0);
    rig.bar_write(0, 0xd0, 1);
    assert!(!rig.hardware.hear_unmask());
    assert!(!rig.hardware.calls().contains(&Call::Unmask));
}

#[test]
fn interrupt_disable_lets_go_of_the_line_and_enabling_looks_again() {
    let (rig, input) = wired(e1000e());
    rig.hardware.set_pin(true);
    assert!(input.is_asserted());
    rig.write_u16(0x04, INTERRUPT_DISABLE | 6);
    rig.hardware.hear_unmask();
    assert!(!input.is_asserted());
    assert_eq!(rig.hardware.enabled(), Some((IrqKind::Intx, 1)), "armed");
    rig.write_u16(0x04, 6);
    rig.hardware.hear_unmask();
    assert!(input.is_asserted());
}

#[test]
fn a_device_that_the_guest_puts_to_sleep_asserts_nothing() {
    let (rig, input) = wired(e1000e());
    let sleep = |state| rig.write_u16(0xc8 + 4, state);
    sleep(3);
    rig.hardware.set_pin(true);
    rig.hardware.hear_unmask();
    assert!(!input.is_asserted());
    sleep(0);
    rig.hardware.hear_unmask();
    assert!(input.is_asserted());
}

#[test]
fn interrupt_status_is_the_devices() {
    let (rig, _input) = wired(e1000e());
    assert_eq!(rig.read(0x04) >> 19 & 1, 0);
    rig.hardware.poke_config(0x06, &[0x18]);
    assert_eq!(rig.read(0x04) >> 19 & 1, 1);
    rig.write(0x04, u32::MAX);
    assert_eq!(rig.read(0x04) >> 19 & 1, 1, "it is read-only");
}

#[test]
fn kinds_follow_each_other_in_any_order_and_back() {
    let (rig, input) = wired(e1000e());
    let to = |kind| {
        rig.write_u16(MSI_CONTROL, 0);
        rig.write_u16(MSIX_CONTROL, 0);
        match kind {
            IrqKind::Msi => enable_msi(&rig),
            IrqKind::Msix => drop(rig.write_u16(MSIX_CONTROL, ENABLE_MSIX)),
            _ => (),
        }
        assert_eq!(rig.hardware.enabled(), Some((kind, 1)));
        assert_eq!(input.is_connected(), kind == IrqKind::Intx);
    };
    let kinds = [IrqKind::Intx, IrqKind::Msi, IrqKind::Msix];
    for (first, second) in kinds.iter().flat_map(|a| kinds.map(|b| (*a, b))) {
        to(first);
        to(second);
    }
    to(IrqKind::Intx);
    rig.hardware.set_pin(true);
    assert!(input.is_asserted());
    rig.hardware.calls();
    to(IrqKind::Msi);
    assert!(!input.is_asserted());
    let kinds: Vec<_> = rig
        .hardware
        .calls()
        .into_iter()
        .filter(|call| !matches!(call, Call::Write(..)))
        .collect();
    assert_eq!(
        kinds,
        [
            Call::Disable(IrqKind::Intx),
            Call::Triggers(IrqKind::Msi, 0, vec![false]),
            Call::Triggers(IrqKind::Msi, 0, vec![true]),
        ],
        "out first"
    );
}

#[test]
fn a_level_that_was_there_before_is_found_when_intx_is_armed_again() {
    let (rig, input) = wired(e1000e());
    rig.write_u16(MSIX_CONTROL, ENABLE_MSIX);
    rig.hardware.set_pin(true);
    rig.write_u16(MSIX_CONTROL, 0);
    rig.hardware.hear_unmask();
    assert!(input.is_asserted());
}

#[test]
fn a_pin_that_cannot_be_armed_is_not_shown() {
    let hardware = e1000e();
    let rig = Rig::new(hardware);
    let input = FakeInput::default();
    input.set_failing(true);
    rig.device.wire_intx(Arc::new(input.clone()));
    assert_eq!(rig.device.interrupt_pin(), None);
    assert_eq!(rig.device.state().intx.failures, 1);
    input.set_failing(false);
    rig.device.reset();
    assert_eq!(rig.hardware.enabled(), None);
    assert!(!input.is_connected());
}

#[test]
fn a_reset_ends_and_rearms_it_and_a_release_does_not() {
    let (rig, input) = wired(e1000e());
    rig.write_u16(0x04, 6);
    rig.hardware.set_pin(true);
    assert!(input.is_asserted());
    rig.hardware.calls();
    rig.hardware.set_pin(false);
    rig.device.reset();
    let calls = rig.hardware.calls();
    let at = |wanted: &Call| calls.iter().position(|call| call == wanted).unwrap();
    assert!(at(&Call::Disable(IrqKind::Intx)) < at(&Call::Reset));
    assert!(at(&Call::Reset) < at(&Call::Triggers(IrqKind::Intx, 0, vec![true])));
    rig.hardware.hear_unmask();
    assert!(!input.is_asserted());
    rig.device.release();
    assert_eq!(rig.hardware.enabled(), None);
    assert!(!input.is_connected());
}

/// What a driver does with the kinds, by probing them all, as after a kexec.
fn change_kinds(rig: &Rig, input: &FakeInput) {
    rig.write_u16(0x04, 0x0006);
    rig.write_u16(MSIX_CONTROL, ENABLE_MSIX | 0x4000);
    for vector in 0..5 {
        rig.bar_write(3, 16 * vector, 0xfee0_0000);
        rig.bar_write(3, 16 * vector + 8, vector as u32);
        rig.bar_write(3, 16 * vector + 12, 0);
    }
    rig.write_u16(MSIX_CONTROL, ENABLE_MSIX);
    rig.write_u16(MSIX_CONTROL, 0);
    enable_msi(rig);
    rig.write_u16(MSI_CONTROL, 0);
    rig.hardware.set_pin(true);
    rig.hardware.hear_unmask();
    input.is_asserted();
    rig.hardware.set_pin(false);
    input.serve();
    rig.write_u16(0x04, 0x0406);
    rig.write_u16(0x04, 0x0006);
}

#[test]
fn whatever_call_fails_every_kind_works_afterwards() {
    let mut steps = 0;
    for step in 0.. {
        let (rig, input) = wired(e1000e());
        rig.hardware.fail_at(step);
        change_kinds(&rig, &input);
        if !rig.hardware.has_failed() {
            break;
        }
        steps += 1;
        // What lingered is tried again at the next change.
        enable_msi(&rig);
        assert!(rig.hardware.fire(0), "MSI after call {step} failed");
        assert!(rig.routes.delivered().contains(&message(0x41)));
        rig.write_u16(MSI_CONTROL, 0);
        rig.hardware.set_pin(true);
        rig.hardware.hear_unmask();
        assert!(input.is_asserted(), "INTx after call {step} failed");
        rig.write_u16(MSIX_CONTROL, ENABLE_MSIX | 0x4000);
        rig.write_u16(MSIX_CONTROL, ENABLE_MSIX);
        for vector in 0..5 {
            assert!(
                rig.hardware.fire(vector),
                "vector {vector} after call {step}"
            );
        }
        assert!(!input.is_connected());
    }
    assert!(steps > 15, "{steps} calls were tried");
}
