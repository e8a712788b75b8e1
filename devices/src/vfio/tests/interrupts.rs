use super::*;
use crate::vfio::backend::IrqKind;
use crate::vfio::fake::Call;

const MSIX: u16 = 0x40;
const ENABLE: u16 = 0x8000;
const FUNCTION_MASK: u16 = 0x4000;

/// An NVMe-like device whose table is at 0 and pending bits at 0x8000 of BAR 0.
fn msix_rig(vectors: u16, growable: bool) -> Rig {
    let mut hardware = FakeBackend::new(NVME, &[(0, 0x10000, true)]);
    let [low, high] = (vectors - 1).to_le_bytes();
    hardware.poke_config(0x42, &[low, high, 0, 0, 0, 0, 0, 0x80, 0, 0]);
    hardware.msix = IrqInfo {
        count: vectors.into(),
        growable,
    };
    Rig::new(hardware)
}

impl Rig {
    fn set_msix(&self, control: u16) {
        self.write_u16(MSIX + 2, control);
    }

    fn set_vector(&self, vector: u64, data: u32, mask: bool) {
        self.bar_write(0, 16 * vector, 0xfee0_0000);
        self.bar_write(0, 16 * vector + 4, 0);
        self.bar_write(0, 16 * vector + 8, data);
        self.mask_vector(vector, mask);
    }

    fn mask_vector(&self, vector: u64, mask: bool) {
        self.bar_write(0, 16 * vector + 12, mask.into());
    }

    fn pending(&self) -> u32 {
        self.bar_read(0, 0x8000)
    }
}

#[test]
fn a_vector_is_armed_when_the_guest_unmasks_it() {
    let rig = msix_rig(2048, true);
    rig.set_msix(ENABLE | FUNCTION_MASK);
    rig.set_msix(ENABLE);
    assert_eq!(rig.hardware.enabled(), Some((IrqKind::Msix, 1)));
    rig.set_vector(5, 77, true);
    assert_eq!(rig.routes.live(), []);
    rig.mask_vector(5, false);
    assert_eq!(rig.routes.live(), [(Bdf::new(1, 0, 0), message(77))]);
    assert!(rig.hardware.fire(5));
    assert_eq!(rig.routes.delivered(), [message(77)]);
}

#[test]
fn of_2048_vectors_only_those_unmasked_cost_anything() {
    let rig = msix_rig(2048, true);
    rig.set_msix(ENABLE);
    for vector in [0, 3, 2047] {
        rig.set_vector(vector, vector as u32, false);
    }
    assert_eq!(rig.routes.most(), 3);
    let state = rig.device.state().msix.unwrap();
    assert_eq!((state.live, state.failures), (vec![0, 3, 2047], 0));
    assert!(rig.hardware.fire(2047));
    assert!(!rig.hardware.fire(2046));
    assert_eq!(rig.routes.delivered(), [message(2047)]);
    rig.set_msix(0);
    assert_eq!(rig.routes.live(), []);
    assert_eq!(rig.hardware.enabled(), None);
}

#[test]
fn a_masked_vector_holds_its_interrupt_back_and_shows_it_pending() {
    let rig = msix_rig(8, true);
    rig.set_msix(ENABLE);
    rig.set_vector(2, 50, false);
    rig.mask_vector(2, true);
    assert!(rig.hardware.fire(2) && rig.hardware.fire(2));
    assert_eq!(rig.routes.delivered(), []);
    assert_eq!(rig.pending(), 1 << 2);
    assert_eq!(rig.pending(), 1 << 2, "reading does not lose it");
    // A new message, as a guest that moves an interrupt to another CPU writes it.
    rig.set_vector(2, 51, false);
    assert_eq!(
        rig.routes.delivered(),
        [message(51)],
        "once, and to the new one"
    );
    assert_eq!(rig.pending(), 0);
    assert!(rig.hardware.fire(2));
    assert_eq!(rig.routes.delivered(), [message(51)]);
    assert_eq!(rig.routes.most(), 1, "the route is kept");
}

#[test]
fn an_interrupt_that_was_never_looked_at_is_delivered_at_the_unmask() {
    let rig = msix_rig(8, true);
    rig.set_msix(ENABLE);
    rig.set_vector(2, 50, false);
    rig.set_msix(ENABLE | FUNCTION_MASK);
    rig.hardware.fire(2);
    rig.set_msix(ENABLE);
    assert_eq!(rig.routes.delivered(), [message(50)]);
    rig.set_msix(ENABLE | FUNCTION_MASK);
    rig.set_msix(ENABLE);
    assert_eq!(rig.routes.delivered(), []);
}

#[test]
fn the_devices_own_pending_bits_show_through() {
    let rig = msix_rig(8, true);
    rig.set_msix(ENABLE);
    rig.hardware.poke_bar(0, 0x8000, &[0x80]);
    rig.set_vector(2, 50, false);
    rig.mask_vector(2, true);
    rig.hardware.fire(2);
    assert_eq!(rig.pending(), 0x84);
    rig.bar_write(0, 0x8000, u32::MAX);
    assert_eq!(rig.pending(), 0x84, "they are read-only");
}

#[test]
fn a_message_changes_under_a_live_vector() {
    let rig = msix_rig(8, true);
    rig.set_msix(ENABLE);
    rig.set_vector(0, 40, false);
    rig.hardware.calls();
    rig.bar_write(0, 8, 41);
    assert_eq!(rig.hardware.calls(), [], "the kernel need not know");
    rig.hardware.fire(0);
    assert_eq!(rig.routes.delivered(), [message(41)]);
}

#[test]
fn vectors_are_added_to_a_set_that_grows() {
    let rig = msix_rig(64, true);
    rig.set_msix(ENABLE);
    rig.hardware.calls();
    rig.set_vector(0, 40, false);
    rig.set_vector(9, 49, false);
    assert_eq!(
        rig.hardware.calls(),
        [
            Call::Triggers(IrqKind::Msix, 0, vec![true]),
            Call::Triggers(IrqKind::Msix, 9, vec![true]),
        ]
    );
}

#[test]
fn a_set_that_does_not_grow_is_enabled_anew_and_loses_nothing() {
    let rig = msix_rig(6, false);
    rig.set_msix(ENABLE);
    rig.set_vector(0, 40, false);
    rig.set_vector(1, 41, false);
    rig.mask_vector(1, true);
    rig.routes.delivered();
    rig.hardware.calls();
    rig.set_vector(4, 44, false);
    assert_eq!(
        rig.hardware.calls(),
        [
            Call::Disable(IrqKind::Msix),
            // Eight would be ample; the device has six.
            Call::Triggers(
                IrqKind::Msix,
                0,
                vec![true, true, false, false, true, false]
            ),
        ]
    );
    // What vector 0 sent in the gap would be lost; one too many is not.
    assert_eq!(rig.routes.delivered(), [message(40)]);
    assert_eq!(rig.pending(), 0b10);
    for vector in [0, 4] {
        assert!(rig.hardware.fire(vector));
    }
    assert_eq!(rig.routes.delivered(), [message(40), message(44)]);
    rig.hardware.calls();
    rig.set_vector(5, 45, false);
    assert_eq!(
        rig.hardware.calls(),
        [Call::Triggers(IrqKind::Msix, 5, vec![true])],
        "there was one to spare"
    );
}

#[test]
fn a_host_with_few_vectors_gives_what_it_has() {
    let mut hardware = nvme();
    hardware.msix.growable = false;
    hardware.host_vectors = 3;
    hardware.poke_config(0x44, &[0, 0, 0, 0, 0, 0x30]);
    let rig = Rig::new(hardware);
    rig.set_msix(ENABLE);
    // Vector 2 needs three; four, with some to spare, are not to be had.
    rig.set_vector(2, 42, false);
    assert_eq!(rig.hardware.enabled(), Some((IrqKind::Msix, 3)));
    // Vector 3 is one too many: it is dead, and the others go on.
    rig.set_vector(3, 43, false);
    assert_eq!(rig.hardware.enabled(), Some((IrqKind::Msix, 3)));
    assert_eq!(rig.device.state().msix.unwrap().live, [2]);
    rig.routes.delivered();
    assert!(rig.hardware.fire(2));
    assert_eq!(rig.routes.delivered(), [message(42)]);
}

#[test]
fn a_vector_without_a_route_is_dead_until_it_is_unmasked_again() {
    let rig = msix_rig(8, true);
    rig.set_msix(ENABLE);
    rig.set_vector(0, 40, false);
    rig.routes.set_failing(true);
    rig.set_vector(1, 41, false);
    let state = rig.device.state().msix.unwrap();
    assert_eq!((state.live, state.failures), (vec![0], 1));
    rig.routes.set_failing(false);
    assert!(!rig.hardware.fire(1));
    assert!(rig.hardware.fire(0));
    rig.mask_vector(1, true);
    rig.mask_vector(1, false);
    assert!(rig.hardware.fire(1));
    assert_eq!(rig.routes.delivered(), [message(40), message(41)]);
}

#[test]
fn a_route_that_cannot_change_ends() {
    let rig = msix_rig(8, true);
    rig.set_msix(ENABLE);
    rig.set_vector(0, 40, false);
    rig.routes.set_failing(true);
    rig.bar_write(0, 8, 41);
    assert_eq!(rig.routes.live(), []);
    assert!(!rig.hardware.fire(0), "nothing goes to the old message");
}

#[test]
fn a_new_requester_id_makes_new_routes() {
    let rig = msix_rig(8, true);
    rig.set_msix(ENABLE);
    rig.set_vector(0, 40, false);
    rig.set_vector(1, 41, false);
    rig.mask_vector(1, true);
    rig.hardware.fire(1);
    let bdf = Bdf::new(7, 0, 0);
    rig.device.set_bdf(bdf);
    assert_eq!(rig.routes.live(), [(bdf, message(40)), (bdf, message(41))]);
    assert!(rig.hardware.fire(0));
    assert_eq!(rig.routes.delivered(), [message(40)]);
    rig.mask_vector(1, false);
    assert_eq!(rig.routes.delivered(), [message(41)]);
}

/// e1000e with MSI at d0h: control, address, upper address, data.
mod msi {
    use super::*;

    fn enable(rig: &Rig, data: u16) {
        rig.write(0xd4, 0xfee0_0000);
        rig.write(0xd8, 0);
        rig.write(0xdc, data.into());
        rig.write_u16(0xd2, 1);
    }

    #[test]
    fn one_vector_from_enable_to_disable() {
        let rig = Rig::e1000e();
        enable(&rig, 0x41);
        assert_eq!(rig.hardware.enabled(), Some((IrqKind::Msi, 1)));
        assert!(rig.hardware.fire(0));
        assert_eq!(rig.routes.delivered(), [message(0x41)]);
        rig.hardware.calls();
        rig.write_u16(0xdc, 0x42);
        assert_eq!(rig.hardware.calls(), []);
        assert!(rig.hardware.fire(0));
        assert_eq!(rig.routes.delivered(), [message(0x42)]);
        rig.write_u16(0xd2, 0);
        assert_eq!(rig.hardware.enabled(), None);
        assert_eq!(rig.routes.live(), []);
    }

    /// Eight vectors, with mask bits: control at d2h, mask at e0h, pending at e4h.
    fn many() -> Rig {
        let mut hardware = FakeBackend::new(IGBVF, &[]);
        hardware.poke_config(0x34, &[0xd0]);
        hardware.poke_config(0xd0, &[5, 0, 0x86, 1]);
        hardware.msi.count = 8;
        Rig::new(hardware)
    }

    #[test]
    fn many_vectors_are_told_apart_by_the_data() {
        let rig = many();
        rig.write_u16(0xd2, 0x21);
        rig.write_u16(0xd2, 0);
        rig.write(0xd4, 0xfee0_0000);
        rig.write(0xdc, 0x60);
        rig.write_u16(0xd2, 0x21);
        assert_eq!(rig.hardware.enabled(), Some((IrqKind::Msi, 4)));
        assert!(rig.hardware.fire(3));
        assert_eq!(rig.routes.delivered(), [message(0x63)]);
    }

    #[test]
    fn a_masked_one_waits() {
        let rig = many();
        rig.write(0xd4, 0xfee0_0000);
        rig.write(0xdc, 0x60);
        rig.write_u16(0xd2, 0x21);
        rig.write(0xe0, 0b100);
        rig.hardware.fire(2);
        rig.hardware.fire(1);
        assert_eq!(rig.routes.delivered(), [message(0x61)]);
        assert_eq!(rig.read(0xe4), 0b100);
        rig.write(0xe0, 0);
        assert_eq!(rig.routes.delivered(), [message(0x62)]);
        assert_eq!(rig.read(0xe4), 0);
    }

    #[test]
    fn the_host_may_have_fewer() {
        let mut hardware = FakeBackend::new(IGBVF, &[]);
        hardware.poke_config(0x34, &[0xd0]);
        hardware.poke_config(0xd0, &[5, 0, 0x86, 1]);
        hardware.msi.count = 8;
        hardware.host_vectors = 1;
        let rig = Rig::new(hardware);
        rig.write(0xd4, 0xfee0_0000);
        rig.write_u16(0xd2, 0x31);
        assert_eq!(rig.hardware.enabled(), Some((IrqKind::Msi, 1)));
        assert!(rig.hardware.fire(0));
        rig.hardware.calls();
        rig.write(0xe0, 0b10);
        rig.write(0xe0, 0);
        assert_eq!(rig.hardware.calls(), [], "the dead ones are left alone");
    }

    #[test]
    fn msix_goes_before_msi_while_the_guest_enables_both() {
        let rig = Rig::e1000e();
        enable(&rig, 0x41);
        rig.write_u16(0xa2, 0x8000);
        assert_eq!(rig.hardware.enabled(), Some((IrqKind::Msix, 1)));
        assert_eq!(rig.routes.live(), []);
        rig.write_u16(0xa2, 0);
        assert_eq!(rig.hardware.enabled(), Some((IrqKind::Msi, 1)));
        assert!(rig.hardware.fire(0));
        assert_eq!(rig.routes.delivered(), [message(0x41)]);
    }
}
