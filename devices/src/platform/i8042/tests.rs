use proptest::prelude::*;

use super::*;
use crate::platform::fakes::{FakePower, Probe, torture};

struct Rig {
    i8042: Arc<I8042>,
    power: Arc<FakePower>,
    line: Arc<Probe>,
}

impl Rig {
    fn new() -> Self {
        let power = Arc::new(FakePower::default());
        let (line, irq) = Probe::line();
        Self {
            i8042: Arc::new(I8042::new(irq, power.clone())),
            power,
            line,
        }
    }

    /// Sends a command and perhaps its byte; gives status and answer, if there is one.
    fn ask(&self, command: u8, byte: Option<u8>) -> Option<(u8, u8)> {
        self.i8042.write_port(COMMAND, command);
        if let Some(byte) = byte {
            self.i8042.write_port(DATA, byte);
        }
        self.answer()
    }

    fn answer(&self) -> Option<(u8, u8)> {
        let status = self.i8042.read_port(COMMAND);
        (status & 1 != 0).then(|| (status, self.i8042.read_port(DATA)))
    }
}

#[test]
fn passes_its_tests_at_once() {
    let rig = Rig::new();
    assert_eq!(rig.i8042.read_port(COMMAND), 0x10);
    assert_eq!(rig.ask(0xaa, None), Some((0x1d, 0x55)));
    assert_eq!(rig.i8042.read_port(COMMAND) & 0x04, 0x04);
    assert_eq!(rig.ask(0xab, None).unwrap().1, 0x00);
    assert_eq!(rig.ask(0xc0, None).unwrap().1, 0xa0);
}

/// How Linux looks for an auxiliary port: a loop-back must not look like one, and the
/// interface test must fail.
#[test]
fn there_is_no_auxiliary_port() {
    let rig = Rig::new();
    let (status, byte) = rig.ask(0xd3, Some(0x5a)).unwrap();
    assert_eq!((status & 0x20, byte), (0, 0x5a));
    let test = rig.ask(0xa9, None).unwrap().1;
    assert!(test != 0 && test != 0xfa && test != 0xff);
    assert_eq!(rig.ask(0xd4, Some(0xff)).unwrap().1, 0xfe);
}

#[test]
fn a_keyboard_that_is_not_there_times_out_with_an_interrupt() {
    let rig = Rig::new();
    rig.ask(0x60, Some(0x01));
    rig.i8042.write_port(DATA, 0xf2);
    assert!(rig.line.level());
    assert_eq!(rig.answer(), Some((0x51, 0xfe)));
    assert!(!rig.line.level());
    assert_eq!(rig.i8042.read_port(COMMAND) & 0x41, 0);
}

#[test]
fn ram_holds_the_command_byte() {
    let rig = Rig::new();
    assert_eq!(rig.ask(0x20, None).unwrap().1, 0x30);
    rig.ask(0x60, Some(0x74));
    assert_eq!(rig.ask(0x20, None).unwrap().1, 0x74);
    rig.ask(0xae, None);
    rig.ask(0xa8, None);
    assert_eq!(rig.ask(0x20, None).unwrap().1, 0x44);
    rig.ask(0xad, None);
    rig.ask(0xa7, None);
    assert_eq!(rig.ask(0x20, None).unwrap().1, 0x74);
    rig.ask(0x7f, Some(0x99));
    assert_eq!(rig.ask(0x3f, None).unwrap().1, 0x99);
}

#[test]
fn resets_by_pulse_and_by_output_port() {
    let rig = Rig::new();
    rig.ask(0xff, None);
    rig.ask(0xd1, Some(0x03));
    assert_eq!(rig.power.resets(), 0);
    rig.ask(0xfe, None);
    assert_eq!(rig.power.resets(), 1);
    rig.ask(0xd1, Some(0x02));
    assert_eq!(rig.power.resets(), 2);
}

#[test]
fn keeps_the_a20_gate() {
    let rig = Rig::new();
    assert_eq!(rig.ask(0xd0, None).unwrap().1, 0xcf);
    rig.ask(0xdd, None);
    assert_eq!(rig.ask(0xd0, None).unwrap().1, 0xcd);
    rig.ask(0xdf, None);
    assert_eq!(rig.ask(0xd0, None).unwrap().1, 0xcf);
}

#[test]
fn nothing_survives_reset() {
    let rig = Rig::new();
    rig.ask(0x60, Some(0x65));
    rig.i8042.write_port(DATA, 0xed);
    rig.i8042.write_port(COMMAND, 0xd4);
    assert!(rig.line.level());
    rig.i8042.reset();
    assert!(!rig.line.level());
    assert_eq!(rig.i8042.state(), I8042State::new());
}

proptest! {
    #[test]
    fn survives_anything(
        steps in prop::collection::vec((any::<u8>(), any::<bool>(), any::<u8>()), 0..300)
    ) {
        let rig = Rig::new();
        for step in steps {
            torture(&*rig.i8042, &[DATA, COMMAND], &[step]);
            prop_assert_eq!(rig.i8042.state().interrupting, rig.line.level());
        }
    }
}
