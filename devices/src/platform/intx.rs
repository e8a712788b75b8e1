//! The interrupt wires of the board: who is soldered to which input of the 8259 pair and of
//! the I/O APIC.
//!
//! * ISA IRQ *n* goes to 8259 input *n* and to I/O APIC pin *n*; IRQ 0 to pin 2, as in every
//!   ICH (ICH9 §5.9.2), so a MADT says so.
//! * PCI INTx goes to one of PIRQA# to PIRQH# ([`pirq`]); PIRQ *p* goes to I/O APIC pin
//!   16 + *p*, and to an 8259 input if the LPC bridge routes it there.
//!
//! Reset: wires have no state of their own; ends stay as their devices drive them. Routes
//! are the LPC bridge's.

use std::sync::{Arc, Mutex, PoisonError};

use pci::InterruptPin;

use super::ioapic::{self, IoApic};
use super::pic::Pic;
use super::wire::SharedLine;
use crate::irq::{IrqLine, LineSink};

/// How many PIRQs there are.
pub const PIRQS: u8 = 8;

/// I/O APIC pin of PIRQA#.
pub const FIRST_PIRQ_PIN: u8 = 16;

/// Which PIRQ (0 for PIRQA# to 7 for PIRQH#) a pin of a device on bus 0 is wired to.
///
/// Devices 25 to 31, the chipset's own, go by the reset values of their DxxIR registers
/// (ICH9 §10.1): INTA# to PIRQA# and so on. All others share PIRQE# to PIRQH#,
/// rotated by device number. In APIC mode the GSI is 16 more. A pin of a device behind a
/// bridge is first [`swizzle`]d to one of the bridge.
pub fn pirq(device: u8, pin: InterruptPin) -> u8 {
    let device = device & 0x1f;
    if device >= 25 {
        pin.index()
    } else {
        4 + (device + pin.index()) % 4
    }
}

/// The pin of a bridge that a pin of a device behind it comes out of (PCI-to-PCI Bridge 1.2
/// §9.1; PCIe 6.0 §2.2.8.1).
pub fn swizzle(device: u8, pin: InterruptPin) -> InterruptPin {
    InterruptPin::from_index((device & 3) + pin.index())
}

/// The wires.
pub struct IntxRouter {
    pic: Vec<SharedLine>,
    ioapic: Vec<SharedLine>,
    pirqs: Vec<(SharedLine, Arc<Pirq>)>,
}

impl IntxRouter {
    /// Wires to both controllers, with no PIRQ routed to the 8259.
    pub fn new(pic: &Arc<Pic>, ioapic: &Arc<IoApic>) -> Self {
        let pic = (0..16).map(|irq| SharedLine::new(pic.irq(irq))).collect();
        let ioapic: Vec<_> = (0..ioapic::PINS)
            .map(|pin| SharedLine::new(ioapic.pin(pin)))
            .collect();
        let pirqs = ioapic
            .iter()
            .skip(FIRST_PIRQ_PIN.into())
            .map(|pin| {
                let pirq = Arc::new(Pirq {
                    pin: pin.end(),
                    to_pic: Mutex::default(),
                });
                (SharedLine::new(pirq.clone()), pirq)
            })
            .collect();
        Self { pic, ioapic, pirqs }
    }

    /// The end of an INTx wire for a pin of a device on bus 0.
    pub fn line(&self, device: u8, pin: InterruptPin) -> IrqLine {
        match self.pirqs.get(usize::from(pirq(device, pin))) {
            Some((wire, _)) => wire.end(),
            None => IrqLine::new(Arc::new(Nowhere)),
        }
    }

    /// The end of an ISA interrupt wire. There is no IRQ 2, nor one above 15.
    pub fn isa_line(&self, irq: u8) -> IrqLine {
        let pin = if irq == 0 { 2 } else { irq };
        match (
            self.pic.get(usize::from(irq)),
            self.ioapic.get(usize::from(pin)),
        ) {
            (Some(pic), Some(pin)) if irq != 2 => {
                IrqLine::new(Arc::new(Both(pic.end(), pin.end())))
            }
            _ => IrqLine::new(Arc::new(Nowhere)),
        }
    }

    /// The PIRQs that are routed to an 8259 input.
    pub fn pirqs_on(&self, irq: u8) -> Vec<u8> {
        let routed = |pirq: &Pirq| {
            let to = pirq.to_pic.lock().unwrap_or_else(PoisonError::into_inner);
            to.irq == Some(irq)
        };
        let pirqs = (0..).zip(&self.pirqs);
        pirqs
            .filter(|(_, (_, pirq))| routed(pirq))
            .map(|(n, _)| n)
            .collect()
    }

    /// Routes a PIRQ to an 8259 input, or to none. Follows PIRQx_ROUT.
    pub fn set_route(&self, pirq: u8, irq: Option<u8>) {
        let Some((_, pirq)) = self.pirqs.get(usize::from(pirq)) else {
            return;
        };
        let mut to = pirq.to_pic.lock().unwrap_or_else(PoisonError::into_inner);
        if to.irq == irq {
            return;
        }
        to.irq = irq;
        // The old end lets go as it drops.
        to.end = irq.and_then(|irq| Some(self.pic.get(usize::from(irq))?.end()));
        if let Some(end) = &to.end {
            end.set(to.asserted);
        }
    }
}

/// What a PIRQ drives.
struct Pirq {
    pin: IrqLine,
    to_pic: Mutex<ToPic>,
}

#[derive(Default)]
struct ToPic {
    asserted: bool,
    irq: Option<u8>,
    end: Option<IrqLine>,
}

impl LineSink for Pirq {
    fn set(&self, asserted: bool) {
        self.pin.set(asserted);
        let mut to = self.to_pic.lock().unwrap_or_else(PoisonError::into_inner);
        to.asserted = asserted;
        if let Some(end) = &to.end {
            end.set(asserted);
        }
    }
}

struct Both(IrqLine, IrqLine);

impl LineSink for Both {
    fn set(&self, asserted: bool) {
        self.0.set(asserted);
        self.1.set(asserted);
    }
}

struct Nowhere;

impl LineSink for Nowhere {
    fn set(&self, _: bool) {}
}

#[cfg(test)]
mod tests {
    use pci::MsiMessage;

    use super::*;
    use crate::platform::fakes::{FakeAlarm, FakeClock};
    use crate::platform::ioapic::{IoApicConfig, IoApicOutput};
    use crate::platform::pic::Intr;
    use crate::platform::ports::BytePorts;

    struct Nobody;

    impl Intr for Nobody {
        fn set(&self, _: bool) {}
    }

    impl IoApicOutput for Nobody {
        fn deliver(&self, _: u8, _: MsiMessage) {}
        fn route(&self, _: u8, _: Option<MsiMessage>) {}
    }

    struct Rig {
        pic: Arc<Pic>,
        ioapic: Arc<IoApic>,
        router: IntxRouter,
    }

    impl Rig {
        fn new() -> Self {
            let pic = Arc::new(Pic::new(Arc::new(Nobody)));
            pic.write_port(0x4d0, 0xff);
            pic.write_port(0x4d1, 0xff);
            let ioapic = Arc::new(IoApic::new(IoApicConfig {
                output: Arc::new(Nobody),
                clock: Arc::new(FakeClock::default()),
                alarm: Arc::new(FakeAlarm::default()),
            }));
            let router = IntxRouter::new(&pic, &ioapic);
            Self {
                pic,
                ioapic,
                router,
            }
        }

        /// Asserted inputs of both controllers, a bit each.
        fn levels(&self) -> (u16, u32) {
            let pic = self.pic.state();
            let lines = u16::from(pic.slave.lines) << 8 | u16::from(pic.master.lines);
            // The cascade is the slave's doing.
            (lines & !4, self.ioapic.state().levels)
        }
    }

    #[test]
    fn pins_are_wired_as_on_a_q35_board() {
        assert_eq!(pirq(31, InterruptPin::IntA), 0);
        assert_eq!(pirq(29, InterruptPin::IntD), 3);
        assert_eq!(pirq(2, InterruptPin::IntA), 6);
        assert_eq!(pirq(3, InterruptPin::IntB), 4);
        for device in 0..=255 {
            for pin in 0..4 {
                assert!(pirq(device, InterruptPin::from_index(pin)) < PIRQS);
            }
        }
        assert_eq!(swizzle(0, InterruptPin::IntC), InterruptPin::IntC);
        assert_eq!(swizzle(31, InterruptPin::IntB), InterruptPin::IntA);
    }

    #[test]
    fn isa_lines_reach_both_controllers() {
        let rig = Rig::new();
        for irq in 0..16 {
            let line = rig.router.isa_line(irq);
            line.set(true);
            let pin = if irq == 0 { 2 } else { irq };
            let expected = if irq == 2 {
                (0, 0)
            } else {
                (1 << irq, 1 << pin)
            };
            assert_eq!(rig.levels(), expected, "IRQ {irq}");
        }
        rig.router.isa_line(16).set(true);
        assert_eq!(rig.levels(), (0, 0), "dropped ends let go");
    }

    #[test]
    fn pirqs_are_shared_and_follow_their_routes() {
        let rig = Rig::new();
        let a = rig.router.line(1, InterruptPin::IntA);
        let b = rig.router.line(5, InterruptPin::IntA);
        let isa = rig.router.isa_line(11);
        a.set(true);
        b.set(true);
        assert_eq!(rig.levels(), (0, 1 << 21));
        rig.router.set_route(5, Some(10));
        assert_eq!(rig.levels(), (1 << 10, 1 << 21));
        assert_eq!(rig.router.pirqs_on(10), [5]);
        assert_eq!(rig.router.pirqs_on(11), []);
        a.set(false);
        rig.router.set_route(5, Some(11));
        isa.set(true);
        assert_eq!(rig.levels(), (1 << 11, 1 << 21 | 1 << 11));
        b.set(false);
        assert_eq!(rig.levels(), (1 << 11, 1 << 11));
        isa.set(false);
        b.set(true);
        rig.router.set_route(5, None);
        assert_eq!(rig.levels(), (0, 1 << 21));
        rig.router.set_route(8, Some(3));
        rig.router.set_route(0, Some(99));
    }
}
