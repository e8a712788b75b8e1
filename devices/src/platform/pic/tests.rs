use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::platform::fakes::torture;

#[derive(Default)]
struct Pin(AtomicBool, Mutex<Vec<u8>>);

impl Intr for Pin {
    fn served(&self, irq: u8) {
        self.1.lock().unwrap().push(irq);
    }

    fn set(&self, asserted: bool) {
        assert_ne!(
            self.0.swap(asserted, Ordering::SeqCst),
            asserted,
            "INTR is told of changes only"
        );
    }
}

struct Rig {
    pic: Arc<Pic>,
    pin: Arc<Pin>,
}

impl Rig {
    fn new() -> Self {
        let pin = Arc::new(Pin::default());
        Self {
            pic: Arc::new(Pic::new(pin.clone())),
            pin,
        }
    }

    /// Initialized as every PC does it, vectors 0x20 and 0x28, nothing masked.
    fn ready() -> Self {
        Self::with_modes(0x01)
    }

    fn with_modes(icw4: u8) -> Self {
        let rig = Self::new();
        for (command, base, cascade) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
            rig.out(command, 0x11);
            rig.out(command + 1, base);
            rig.out(command + 1, cascade);
            rig.out(command + 1, icw4);
        }
        rig
    }

    fn take_served(&self) -> Vec<u8> {
        std::mem::take(&mut self.pin.1.lock().unwrap())
    }

    fn out(&self, port: u16, value: u8) {
        self.pic.write_port(port, value);
    }

    fn read(&self, port: u16) -> u8 {
        self.pic.read_port(port)
    }

    fn isr(&self, command: u16) -> u8 {
        self.out(command, 0x0b);
        self.read(command)
    }

    fn irr(&self, command: u16) -> u8 {
        self.out(command, 0x0a);
        self.read(command)
    }

    fn pulse(&self, irq: u8) {
        self.pic.set_level(irq, true);
        self.pic.set_level(irq, false);
    }

    fn intr(&self) -> bool {
        self.pin.0.load(Ordering::SeqCst)
    }
}

#[test]
fn delivers_an_edge_once() {
    let rig = Rig::ready();
    rig.pic.set_level(4, true);
    assert!(rig.intr());
    assert_eq!(rig.irr(0x20), 0x10);
    assert_eq!(rig.pic.acknowledge(), Some(0x24));
    assert!(!rig.intr());
    assert_eq!((rig.isr(0x20), rig.irr(0x20)), (0x10, 0));
    rig.out(0x20, 0x20);
    assert_eq!(rig.isr(0x20), 0);
    assert_eq!(rig.pic.acknowledge(), None);
}

#[test]
fn a_slave_interrupt_takes_two_eois() {
    let rig = Rig::ready();
    rig.pic.set_level(14, true);
    assert_eq!(rig.pic.acknowledge(), Some(0x2e));
    assert_eq!((rig.isr(0x20), rig.isr(0xa0)), (0x04, 0x40));
    rig.out(0xa0, 0x20);
    rig.out(0x20, 0x20);
    assert_eq!((rig.isr(0x20), rig.isr(0xa0)), (0, 0));
}

#[test]
fn higher_priorities_nest_and_lower_ones_wait() {
    let rig = Rig::ready();
    rig.pulse(4);
    assert_eq!(rig.pic.acknowledge(), Some(0x24));
    rig.pulse(5);
    assert!(!rig.intr());
    rig.pulse(1);
    assert_eq!(rig.pic.acknowledge(), Some(0x21));
    rig.out(0x20, 0x20); // ends IRQ 1, the highest in service
    assert_eq!(rig.isr(0x20), 0x10);
    rig.out(0x20, 0x20);
    assert_eq!(rig.pic.acknowledge(), Some(0x25));
}

#[test]
fn masks_hold_back_but_do_not_lose() {
    let rig = Rig::ready();
    rig.out(0x21, 0xff);
    rig.pulse(3);
    assert!(!rig.intr());
    assert_eq!(rig.read(0x21), 0xff);
    rig.out(0x21, 0xf7);
    assert_eq!(rig.pic.acknowledge(), Some(0x23));
}

#[test]
fn level_inputs_follow_the_line() {
    let rig = Rig::ready();
    rig.out(0x4d1, 0xff);
    rig.out(0x4d0, 0xff);
    assert_eq!((rig.read(0x4d0), rig.read(0x4d1)), (0xf8, 0xde));
    rig.pic.set_level(10, true);
    assert_eq!(rig.pic.acknowledge(), Some(0x2a));
    rig.out(0xa0, 0x20);
    rig.out(0x20, 0x20);
    assert!(rig.intr(), "still asserted, so it interrupts again");
    rig.pic.set_level(10, false);
    assert!(!rig.intr());
    assert_eq!(rig.pic.acknowledge(), None);
}

#[test]
fn spurious_interrupts_are_seven_and_fifteen() {
    let mut pair = Rig::ready().pic.state();
    assert_eq!(pair.inta(), (7, 0x27));
    assert_eq!(pair.master.in_service, 0);
    pair.master.set_cascade(true);
    assert_eq!(pair.inta(), (15, 0x2f));
    assert_eq!((pair.master.in_service, pair.slave.in_service), (4, 0));
}

#[test]
fn devices_are_served_by_an_eoi_and_an_unmask() {
    let rig = Rig::ready();
    rig.out(0x4d1, 0x0c); // IRQ 10 and 11 by level
    rig.take_served();
    rig.pic.set_level(11, true);
    assert_eq!(rig.pic.acknowledge(), Some(0x2b));
    // As Linux does: mask, end slave and master, and unmask when it is done.
    rig.out(0xa1, 0x08);
    assert_eq!(rig.take_served(), []);
    rig.out(0xa0, 0x63);
    rig.out(0x20, 0x62);
    assert_eq!(rig.take_served(), [11, 2]);
    rig.out(0xa1, 0x00);
    assert_eq!(rig.take_served(), [11]);
    let rig = Rig::with_modes(0x03);
    rig.take_served();
    rig.pulse(5);
    assert_eq!(rig.pic.acknowledge(), Some(0x25));
    assert_eq!(rig.take_served(), [5], "its end is automatic");
}

#[test]
fn automatic_eoi_leaves_nothing_in_service_and_may_rotate() {
    let rig = Rig::with_modes(0x03);
    rig.out(0x20, 0x80); // rotate in automatic EOI mode
    rig.pulse(0);
    rig.pulse(1);
    assert_eq!(rig.pic.acknowledge(), Some(0x20));
    assert_eq!(rig.isr(0x20), 0);
    rig.pulse(0);
    assert_eq!(rig.pic.acknowledge(), Some(0x21));
    assert_eq!(rig.pic.acknowledge(), Some(0x20));
    rig.out(0x20, 0x00); // and not any more
    assert!(!rig.pic.state().master.rotate_on_auto_eoi);
}

#[test]
fn rotation_and_specific_commands() {
    let rig = Rig::ready();
    rig.out(0x20, 0xc0 | 3); // lowest is 3, so 4 is highest
    rig.pulse(0);
    rig.pulse(4);
    assert_eq!(rig.pic.acknowledge(), Some(0x24));
    rig.out(0x20, 0xe0 | 4); // end 4, which becomes lowest
    assert_eq!((rig.isr(0x20), rig.pic.state().master.highest), (0, 5));
    assert_eq!(rig.pic.acknowledge(), Some(0x20));
    rig.out(0x20, 0xa0); // end whatever is served, which becomes lowest
    assert_eq!((rig.isr(0x20), rig.pic.state().master.highest), (0, 1));
    rig.pulse(6);
    assert_eq!(rig.pic.acknowledge(), Some(0x26));
    rig.out(0x20, 0x60 | 5);
    assert_eq!(rig.isr(0x20), 0x40, "a specific EOI ends no other");
    rig.out(0x20, 0x60 | 6);
    assert_eq!(rig.isr(0x20), 0);
}

#[test]
fn special_mask_mode_lets_lower_priorities_through() {
    let rig = Rig::ready();
    rig.pulse(1);
    rig.pic.acknowledge();
    rig.pulse(5);
    assert!(!rig.intr());
    rig.out(0x21, 0x02);
    rig.out(0x20, 0x68);
    assert_eq!(rig.pic.acknowledge(), Some(0x25));
    rig.out(0x20, 0x20); // passes over the masked one
    assert_eq!(rig.isr(0x20), 0x02);
    rig.out(0x20, 0x48);
    rig.out(0x20, 0x20);
    assert_eq!(rig.isr(0x20), 0);
}

#[test]
fn special_fully_nested_lets_the_slave_interrupt_itself() {
    for (icw4, nested) in [(0x01, false), (0x11, true)] {
        let rig = Rig::with_modes(icw4);
        rig.pulse(12);
        rig.pic.acknowledge();
        rig.pulse(8);
        assert_eq!(rig.intr(), nested);
    }
}

#[test]
fn polling_acknowledges() {
    let rig = Rig::ready();
    rig.out(0x20, 0x0c);
    assert_eq!(rig.read(0x20), 0);
    rig.pulse(6);
    rig.out(0x20, 0x0c);
    assert_eq!(rig.read(0x20), 0x86);
    assert_eq!(rig.isr(0x20), 0x40);
    assert!(!rig.intr());
}

#[test]
fn the_slave_can_take_its_request_back() {
    let rig = Rig::ready();
    rig.out(0x4d1, 0x08);
    rig.pic.set_level(11, true);
    assert_eq!(rig.irr(0x20), 0x04);
    rig.pic.set_level(11, false);
    assert_eq!(rig.irr(0x20), 0);
    assert!(!rig.intr());
}

#[test]
fn initialization_needs_a_new_edge_and_keeps_level_lines() {
    let rig = Rig::ready();
    rig.out(0x4d0, 0x20);
    rig.pic.set_level(4, true);
    rig.pic.set_level(5, true);
    rig.out(0x20, 0x13); // single, with ICW4: no ICW3
    rig.out(0x21, 0x47);
    rig.out(0x21, 0x01);
    assert_eq!(rig.irr(0x20), 0x20);
    assert_eq!(rig.pic.acknowledge(), Some(0x45));
    rig.out(0x21, 0x80);
    assert_eq!(rig.read(0x21), 0x80);
    rig.pic.set_level(4, false);
    rig.pic.set_level(4, true);
    assert_eq!(rig.irr(0x20), 0x30);
}

#[test]
fn reset_keeps_only_input_levels() {
    let rig = Rig::ready();
    rig.out(0x4d0, 0x20);
    rig.pic.set_level(5, true);
    assert!(rig.intr());
    rig.pic.reset();
    assert!(!rig.intr());
    let state = rig.pic.state();
    let expected = PicState {
        master: Chip {
            lines: 0x20,
            ..Chip::power_on()
        },
        slave: Chip::power_on(),
        intr: false,
    };
    assert_eq!(state, expected);
}

#[test]
fn interrupts_nobody_before_it_is_initialized() {
    let rig = Rig::new();
    for irq in 0..16 {
        rig.pic.set_level(irq, true);
    }
    assert!(!rig.intr());
}

#[test]
fn inputs_that_do_not_exist_are_ignored() {
    let rig = Rig::ready();
    for irq in [CASCADE, 16, 255] {
        rig.pic.irq(irq).set(true);
    }
    assert!(!rig.intr());
    assert_eq!(rig.read(0x22), FLOATING);
}

proptest! {
    #[test]
    fn intr_is_always_the_truth(
        steps in prop::collection::vec((any::<u8>(), any::<bool>(), any::<u8>()), 0..300)
    ) {
        let rig = Rig::new();
        for step in steps {
            torture(&*rig.pic, &[0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1], &[step]);
            rig.pic.set_level(step.2 & 0xf, step.1);
            if step.0 & 0x80 != 0 {
                rig.pic.acknowledge();
            }
            let mut state = rig.pic.state();
            prop_assert_eq!(state.settle(), rig.intr());
        }
    }
}
