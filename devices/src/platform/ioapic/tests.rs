use proptest::prelude::*;

use super::*;
use crate::platform::fakes::{FakeAlarm, FakeClock, run_until};
use crate::platform::wire::SharedLine;

#[derive(Default)]
struct Output {
    delivered: Mutex<Vec<(u8, MsiMessage)>>,
    routes: Mutex<Vec<(u8, Option<MsiMessage>)>>,
    served: Mutex<Vec<u8>>,
    open: Mutex<Vec<(u8, bool)>>,
}

impl Output {
    fn take(&self) -> Vec<(u8, MsiMessage)> {
        std::mem::take(&mut self.delivered.lock().unwrap())
    }

    fn take_served(&self) -> Vec<u8> {
        std::mem::take(&mut self.served.lock().unwrap())
    }

    fn take_open(&self) -> Vec<(u8, bool)> {
        std::mem::take(&mut self.open.lock().unwrap())
    }
}

impl IoApicOutput for Output {
    fn deliver(&self, pin: u8, message: MsiMessage) {
        self.delivered.lock().unwrap().push((pin, message));
    }

    fn route(&self, pin: u8, message: Option<MsiMessage>) {
        self.routes.lock().unwrap().push((pin, message));
    }

    fn open(&self, pin: u8, open: bool) {
        self.open.lock().unwrap().push((pin, open));
    }

    fn served(&self, pin: u8) {
        self.served.lock().unwrap().push(pin);
    }
}

struct Rig {
    ioapic: Arc<IoApic>,
    output: Arc<Output>,
    clock: Arc<FakeClock>,
    alarm: Arc<FakeAlarm>,
}

impl Rig {
    fn new() -> Self {
        let output = Arc::new(Output::default());
        let clock = Arc::new(FakeClock::default());
        let alarm = Arc::new(FakeAlarm::default());
        let ioapic = Arc::new(IoApic::new(IoApicConfig {
            output: output.clone(),
            clock: clock.clone(),
            alarm: alarm.clone(),
        }));
        Self {
            ioapic,
            output,
            clock,
            alarm,
        }
    }

    fn read(&self, index: u8) -> u32 {
        self.ioapic.write(offset::IOREGSEL, &[index]);
        let mut data = [0; 4];
        self.ioapic.read(offset::IOWIN, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, index: u8, value: u32) {
        self.ioapic
            .write(offset::IOREGSEL, &u32::from(index).to_le_bytes());
        self.ioapic.write(offset::IOWIN, &value.to_le_bytes());
    }

    /// Programs an entry as Linux does: the high half first.
    fn program(&self, pin: u8, entry: u64) {
        self.write(index::REDIRECTION + 2 * pin + 1, (entry >> 32) as u32);
        self.write(index::REDIRECTION + 2 * pin, entry as u32);
    }

    fn entry(&self, pin: u8) -> u64 {
        self.ioapic.state().redirection[usize::from(pin)]
    }
}

const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const REMOTE_IRR: u64 = 1 << 14;

#[test]
fn registers_after_reset_are_those_of_the_manual() {
    let rig = Rig::new();
    assert_eq!(rig.read(index::ID), 0);
    assert_eq!(rig.read(index::VERSION), 0x0017_0020);
    for pin in 0..PINS {
        assert_eq!(rig.read(index::REDIRECTION + 2 * pin), 0x0001_0000);
        assert_eq!(rig.read(index::REDIRECTION + 2 * pin + 1), 0);
    }
    assert_eq!(rig.read(0x40), 0);
    assert_eq!(rig.read(0xff), 0);
}

#[test]
fn id_has_four_bits() {
    let rig = Rig::new();
    rig.write(index::ID, 0xffff_ffff);
    assert_eq!(rig.read(index::ID), 0x0f00_0000);
    assert_eq!(rig.read(index::ARBITRATION), 0x0f00_0000);
}

#[test]
fn reserved_and_status_bits_of_an_entry_are_not_written() {
    let rig = Rig::new();
    rig.write(index::REDIRECTION, 0xffff_ffff);
    rig.write(index::REDIRECTION + 1, 0xffff_ffff);
    assert_eq!(rig.read(index::REDIRECTION), 0x0001_afff);
    assert_eq!(rig.read(index::REDIRECTION + 1), 0xffff_0000);
}

#[test]
fn an_edge_is_delivered_once_in_the_compatibility_format() {
    let rig = Rig::new();
    // Destination 3, logical, lowest priority, vector 0x31.
    rig.program(4, 0x0300_0000_0000_0931);
    rig.ioapic.set_level(4, true);
    rig.ioapic.set_level(4, true);
    rig.ioapic.set_level(4, false);
    let expected = MsiMessage {
        address: 0xfee0_3004,
        data: 0x0131,
    };
    assert_eq!(rig.output.take(), [(4, expected)]);
}

#[test]
fn the_remappable_format_passes_through() {
    let rig = Rig::new();
    // VT-d §5.1.5.1: index 0x8123 (bit 15 in entry bit 11), format 1.
    let entry = 0x0123 << 49 | 1 << 48 | 1 << 11 | 0x55;
    rig.program(16, entry);
    rig.ioapic.set_level(16, true);
    let [(16, message)] = rig.output.take()[..] else {
        panic!("one message from pin 16");
    };
    assert_eq!(message.address, 0xfee0_0000 | 0x0123 << 5 | 1 << 4 | 1 << 2);
    assert_eq!(message.data & 0xff, 0x55);
}

#[test]
fn an_edge_while_masked_is_lost() {
    let rig = Rig::new();
    rig.program(1, MASKED | 0x30);
    rig.ioapic.set_level(1, true);
    rig.program(1, 0x30);
    assert_eq!(rig.output.take(), []);
    rig.ioapic.set_level(1, false);
    rig.ioapic.set_level(1, true);
    assert_eq!(rig.output.take().len(), 1);
}

#[test]
fn a_level_while_masked_is_delivered_on_unmask() {
    let rig = Rig::new();
    rig.program(9, MASKED | LEVEL | 0x39);
    rig.ioapic.set_level(9, true);
    assert_eq!(rig.output.take(), []);
    rig.program(9, LEVEL | 0x39);
    let message = MsiMessage {
        address: 0xfee0_0000,
        data: 0xc039,
    };
    assert_eq!(rig.output.take(), [(9, message)]);
    assert_ne!(rig.entry(9) & REMOTE_IRR, 0);
}

#[test]
fn a_level_waits_for_its_eoi_and_fires_again_while_asserted() {
    let rig = Rig::new();
    rig.program(10, LEVEL | 0x40);
    rig.ioapic.set_level(10, true);
    rig.ioapic.set_level(10, false);
    rig.ioapic.set_level(10, true);
    assert_eq!(rig.output.take().len(), 1);
    rig.output.take_served();
    rig.ioapic.end_of_interrupt(0x41);
    assert_eq!(rig.output.take().len(), 0);
    rig.ioapic.end_of_interrupt(0x40);
    assert_eq!(rig.output.take().len(), 1);
    assert_eq!(rig.output.take_served(), [10]);
    rig.ioapic.set_level(10, false);
    rig.ioapic.end_of_interrupt(0x40);
    assert_eq!(rig.output.take().len(), 0);
    assert_eq!(rig.entry(10) & REMOTE_IRR, 0);
}

#[test]
fn the_eoi_register_ends_every_entry_of_its_vector() {
    let rig = Rig::new();
    for pin in [16, 17] {
        rig.program(pin, LEVEL | 0x50);
        rig.ioapic.set_level(pin, true);
    }
    rig.output.take();
    rig.output.take_served();
    rig.ioapic.write(offset::EOI, &0x50_u32.to_le_bytes());
    assert_eq!(rig.output.take_served(), [16, 17]);
    assert_eq!(rig.output.take().len(), 2);
}

#[test]
fn a_device_that_lets_go_when_told_of_the_eoi_is_not_delivered_again() {
    struct LetGo(Mutex<Option<Arc<IoApic>>>, Mutex<u32>);
    impl IoApicOutput for LetGo {
        fn deliver(&self, _: u8, _: MsiMessage) {
            *self.1.lock().unwrap() += 1;
        }
        fn route(&self, _: u8, _: Option<MsiMessage>) {}
        fn served(&self, pin: u8) {
            if let Some(ioapic) = &*self.0.lock().unwrap() {
                ioapic.set_level(pin, false);
            }
        }
    }
    let output = Arc::new(LetGo(Mutex::default(), Mutex::default()));
    let ioapic = Arc::new(IoApic::new(IoApicConfig {
        output: output.clone(),
        clock: Arc::new(FakeClock::default()),
        alarm: Arc::new(FakeAlarm::default()),
    }));
    *output.0.lock().unwrap() = Some(ioapic.clone());
    ioapic.write(offset::IOREGSEL, &[index::REDIRECTION]);
    ioapic.write(offset::IOWIN, &(LEVEL as u32 | 0x60).to_le_bytes());
    ioapic.set_level(0, true);
    ioapic.end_of_interrupt(0x60);
    assert_eq!(*output.1.lock().unwrap(), 1);
    *output.0.lock().unwrap() = None;
}

#[test]
fn devices_are_served_by_an_eoi_an_unmask_and_a_change_of_the_entry() {
    const EDGE: u64 = 0x70;
    let rig = Rig::new();
    rig.program(16, MASKED | LEVEL | 0x70);
    assert_eq!(rig.output.take_served(), [], "masked");
    rig.program(16, LEVEL | 0x70);
    assert_eq!(rig.output.take_served(), [16]);
    rig.program(16, LEVEL | 0x70);
    assert_eq!(rig.output.take_served(), [], "nothing new");
    // An interrupt that did not come from here, as its kernel sends some by itself.
    rig.ioapic.end_of_interrupt(0x70);
    assert_eq!(rig.output.take_served(), [16]);
    rig.program(16, 1 << 56 | LEVEL | 0x70);
    assert_eq!(rig.output.take_served(), [16], "moved to another processor");
    rig.program(16, 1 << 56 | EDGE);
    assert_eq!(rig.output.take_served(), [16]);
    rig.ioapic.end_of_interrupt(0x70);
    assert_eq!(rig.output.take_served(), [16], "an edge ends too");
    rig.program(16, 1 << 56 | MASKED | EDGE);
    rig.output.take_served();
    rig.ioapic.end_of_interrupt(0x70);
    assert_eq!(rig.output.take_served(), [16], "while masked");
}

#[test]
fn a_pin_is_open_while_it_sends_what_ends_with_an_eoi() {
    const NMI: u64 = 4 << 8;
    let rig = Rig::new();
    rig.program(16, LEVEL | 0x70);
    rig.program(16, LEVEL | 0x71);
    assert_eq!(rig.output.take_open(), [(16, true)]);
    rig.program(16, NMI);
    rig.program(16, MASKED | NMI);
    assert_eq!(rig.output.take_open(), [(16, false)]);
    rig.program(16, 0x70);
    rig.program(16, MASKED | 0x70);
    rig.program(17, LEVEL | 0x71);
    rig.output.take_open();
    rig.ioapic.reset();
    assert_eq!(rig.output.take_open(), [(17, false)]);
}

#[test]
fn turning_an_entry_to_edge_clears_remote_irr() {
    let rig = Rig::new();
    rig.program(11, LEVEL | 0x61);
    rig.ioapic.set_level(11, true);
    assert_ne!(rig.entry(11) & REMOTE_IRR, 0);
    // What Linux does where there is no EOI register.
    rig.program(11, MASKED | 0x61);
    assert_eq!(rig.entry(11) & REMOTE_IRR, 0);
    rig.output.take();
    rig.program(11, LEVEL | 0x61);
    assert_eq!(rig.output.take().len(), 1);
}

#[test]
fn routes_are_told_once_and_survive_masking() {
    let rig = Rig::new();
    rig.program(5, MASKED | LEVEL | 0x45);
    assert!(rig.output.routes.lock().unwrap().is_empty());
    rig.program(5, LEVEL | 0x45);
    rig.program(5, MASKED | LEVEL | 0x45);
    rig.program(5, LEVEL | 0x45);
    assert_eq!(rig.output.routes.lock().unwrap().len(), 1);
    rig.program(5, 2 << 56 | LEVEL | 0x45);
    rig.ioapic.reset();
    let routes = rig.output.routes.lock().unwrap();
    assert_eq!(routes[1].1.unwrap().address, 0xfee0_2000);
    assert_eq!(routes[2..], [(5, None)]);
}

#[test]
fn a_storm_is_slowed_but_not_lost() {
    let rig = Rig::new();
    rig.program(12, LEVEL | 0x70);
    rig.ioapic.set_level(12, true);
    for _ in 1..STORM {
        rig.ioapic.end_of_interrupt(0x70);
    }
    assert_eq!(rig.output.take().len(), STORM as usize);
    rig.ioapic.end_of_interrupt(0x70);
    assert_eq!(rig.output.take().len(), 0);
    let fired = run_until(&rig.clock, &rig.alarm, &*rig.ioapic, STORM_DELAY, 0);
    assert_eq!((fired, rig.output.take().len()), (1, 1));
}

#[test]
fn reset_keeps_the_levels_of_pins() {
    let rig = Rig::new();
    rig.write(index::ID, 5 << 24);
    rig.program(9, LEVEL | 0x39);
    rig.ioapic.set_level(9, true);
    rig.ioapic.reset();
    let state = rig.ioapic.state();
    assert_eq!((state.id, state.select, state.levels), (0, 0, 1 << 9));
    assert!(state.redirection.iter().all(|&e| e == MASKED));
    rig.output.take();
    rig.program(9, LEVEL | 0x39);
    assert_eq!(rig.output.take().len(), 1);
}

#[test]
fn pins_are_sinks_for_shared_lines() {
    let rig = Rig::new();
    rig.program(16, LEVEL | 0x71);
    let wire = SharedLine::new(rig.ioapic.pin(16));
    let (a, b) = (wire.end(), wire.end());
    a.set(true);
    b.set(true);
    a.set(false);
    rig.ioapic.end_of_interrupt(0x71);
    assert_eq!(rig.output.take().len(), 2);
    rig.ioapic.pin(PINS).set(true);
    rig.ioapic.set_level(255, true);
}

#[test]
fn narrow_and_crooked_accesses() {
    let rig = Rig::new();
    rig.ioapic.write(offset::IOREGSEL, &[index::VERSION]);
    let mut byte = [0];
    rig.ioapic.read(offset::IOWIN + 2, &mut byte);
    assert_eq!(byte, [0x17]);
    let mut long = [0xaa; 12];
    rig.ioapic.read(offset::IOWIN, &mut long);
    assert_eq!(long[..5], [0x20, 0, 0x17, 0, 0]);
    rig.ioapic.write(offset::IOREGSEL, &[index::REDIRECTION]);
    rig.ioapic.write(offset::IOWIN, &[0x30]);
    rig.ioapic.write(offset::IOWIN, &[]);
    assert_eq!(rig.entry(0), MASKED);
}

proptest! {
    /// Whatever a guest does: no panic, remote IRR only on level entries, and after an
    /// EOI of everything each asserted, unmasked level entry is in service.
    #[test]
    fn survives_and_never_forgets_a_level(
        steps in prop::collection::vec((0_u8..4, any::<u8>(), any::<u32>()), 0..200)
    ) {
        let rig = Rig::new();
        for (what, a, value) in steps {
            match what {
                0 => rig.write(a % 0x48, value),
                1 => rig.ioapic.set_level(a % 26, value & 1 != 0),
                2 => rig.ioapic.end_of_interrupt(a),
                _ => { rig.read(a); }
            }
        }
        for vector in 0..=255 {
            rig.ioapic.end_of_interrupt(vector);
        }
        let state = rig.ioapic.state();
        for pin in 0..PINS {
            let entry = RedirectionEntry(state.redirection[usize::from(pin)]);
            let due = entry.is_level() && !entry.masked() && state.levels & 1 << pin != 0;
            prop_assert_eq!(entry.remote_irr(), due);
        }
    }
}
