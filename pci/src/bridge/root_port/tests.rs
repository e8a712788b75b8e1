use super::*;
use crate::read_bytes;

fn port() -> RootPort {
    RootPort::new(RootPortConfig::occupied(7)).unwrap()
}

fn read(port: &RootPort, offset: u16, len: usize) -> u32 {
    let mut bytes = [0; 4];
    read_bytes(offset, &mut bytes[..len], |r| port.read_config(r));
    u32::from_le_bytes(bytes)
}

fn find(port: &RootPort, id: u32) -> u16 {
    let mut at = read(port, 0x34, 1) as u16;
    while at != 0 && read(port, at, 1) != id {
        at = read(port, at + 1, 1) as u16;
    }
    assert_ne!(at, 0, "capability {id:#x}");
    at
}

#[test]
fn is_a_root_port_with_an_occupied_slot() {
    let port = port();
    assert_eq!(read(&port, 0, 4), 0x3420_8086);
    assert_eq!(read(&port, 0x0a, 2), 0x0604);
    assert_eq!(read(&port, 0x0e, 1), 1);
    let express = find(&port, 0x10);
    assert_eq!(read(&port, express + 2, 2), 0x0142, "root port, slot, v2");
    assert_eq!(read(&port, express + 0x14, 4) >> 19, 7);
    assert_eq!(read(&port, express + 0x1a, 2), 0x0040, "presence");
    assert_eq!(read(&port, express + 0x12, 2), 0x3104, "link up");
    assert_eq!(read(&port, express + 0x2c, 4), 0x1e, "up to 16 GT/s");
    for id in [0x01, 0x05, 0x0d] {
        find(&port, id);
    }
    assert_eq!(read(&port, 0x100, 2), 1);
}

#[test]
fn ari_changes_who_answers() {
    let port = port();
    let at = find(&port, 0x10) + 0x28;
    let on = ConfigWrite::new(Register::containing(at), 0x20, 1);
    assert!(!port.forwards_ari());
    assert_eq!(port.write_config(on), Changes::DECODE);
    assert!(port.forwards_ari());
    port.reset();
    assert!(!port.forwards_ari());
}

/// What the wires were told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Heard {
    Message(u32),
    Pin(bool),
    Power(bool),
}

#[derive(Default)]
struct Listener(Mutex<Vec<Heard>>);

impl PortWires for Listener {
    fn send(&self, message: MsiMessage) {
        self.0.lock().unwrap().push(Heard::Message(message.data));
    }
    fn set_pin(&self, asserted: bool) {
        self.0.lock().unwrap().push(Heard::Pin(asserted));
    }
    fn power_switched(&self, on: bool) {
        self.0.lock().unwrap().push(Heard::Power(on));
    }
}

/// A port with a hot-plug slot, a listener at its wires, and a bus master.
struct Rig {
    port: RootPort,
    listener: Arc<Listener>,
    express: u16,
}

const MESSAGE: u32 = 0x41;
/// Every event of the slot, and its interrupt.
const ALL_EVENTS: u32 = 0x1039;
/// Power off, power indicator off, attention indicator off.
const OFF: u32 = 0x07c0;
const ON: u32 = 0x01c0;
/// Slot Status.
const PRESSED: u32 = 1 << 0;
const PRESENCE_CHANGED: u32 = 1 << 3;
const COMPLETED: u32 = 1 << 4;
const PRESENT: u32 = 1 << 6;
const LINK_CHANGED: u32 = 1 << 8;
const LINK_ACTIVE: u32 = 1 << 13;

impl Rig {
    fn new(config: RootPortConfig) -> Self {
        let port = RootPort::new(config.hot_plug()).unwrap();
        let listener = Arc::new(Listener::default());
        port.wire(listener.clone());
        let express = find(&port, 0x10);
        let rig = Self {
            port,
            listener,
            express,
        };
        rig.write(0x04, 2, 4);
        rig
    }

    fn with_msi(config: RootPortConfig) -> Self {
        let rig = Self::new(config);
        let msi = find(&rig.port, 0x05);
        rig.write(msi + 4, 4, 0xfee0_0000);
        rig.write(msi + 12, 2, MESSAGE);
        rig.write(msi + 2, 2, 1);
        rig
    }

    fn write(&self, offset: u16, len: usize, value: u32) -> Changes {
        let lane = offset & 3;
        let enables = ((1u8 << len) - 1) << lane;
        let write = ConfigWrite::new(Register::containing(offset), value << (8 * lane), enables);
        self.port.write_config(write)
    }

    fn control(&self, value: u32) -> Changes {
        self.write(self.express + 0x18, 2, value)
    }

    /// Slot Status, cleared when it is read.
    fn events(&self) -> u32 {
        let status = read(&self.port, self.express + 0x1a, 2);
        self.write(self.express + 0x1a, 2, status);
        status
    }

    fn is_link_up(&self) -> bool {
        read(&self.port, self.express + 0x12, 2) & LINK_ACTIVE != 0
    }

    fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.listener.0.lock().unwrap())
    }
}

#[test]
fn a_slot_without_hot_plug_has_no_controls_and_no_events() {
    let port = port();
    let express = find(&port, 0x10);
    assert_eq!(read(&port, express + 0x14, 2) & 0x7f, 0);
    port.take_out();
    port.insert();
    port.press_attention();
    assert_eq!(read(&port, express + 0x1a, 2), PRESENT);
    assert!(!port.is_shut());
}

#[test]
fn what_comes_is_told_and_answers_once_it_has_power() {
    let rig = Rig::with_msi(RootPortConfig::empty(3));
    assert_eq!(read(&rig.port, rig.express + 0x14, 2) & 0x7f, 0x7b);
    assert_eq!(read(&rig.port, rig.express + 0x18, 2), OFF);
    assert!(rig.port.is_shut());
    rig.control(OFF | ALL_EVENTS);
    assert_eq!(rig.events(), COMPLETED);
    assert_eq!(rig.heard(), [Heard::Message(MESSAGE)]);

    rig.port.insert();
    assert_eq!(rig.heard(), [Heard::Message(MESSAGE)]);
    assert_eq!(rig.events(), PRESENT | PRESENCE_CHANGED | PRESSED);
    assert!(rig.port.is_shut() && !rig.is_link_up());

    let changes = rig.control(ON | ALL_EVENTS);
    assert_eq!(changes, Changes::SLOT | Changes::DECODE);
    assert_eq!(rig.heard(), [Heard::Power(true), Heard::Message(MESSAGE)]);
    assert_eq!(rig.events(), PRESENT | COMPLETED | LINK_CHANGED);
    assert!(!rig.port.is_shut() && rig.is_link_up() && rig.port.has_power());
}

#[test]
fn the_attention_button_asks_and_power_off_resets_what_is_behind() {
    let rig = Rig::with_msi(RootPortConfig::occupied(3));
    assert!(rig.is_link_up() && rig.port.has_power());
    rig.control(ON | ALL_EVENTS);
    rig.events();
    rig.heard();
    rig.port.press_attention();
    assert_eq!(rig.heard(), [Heard::Message(MESSAGE)]);
    assert_eq!(rig.events(), PRESENT | PRESSED);

    let changes = rig.control(OFF | ALL_EVENTS);
    let all = Changes::SLOT | Changes::DECODE | Changes::SECONDARY_RESET;
    assert_eq!(changes, all);
    assert_eq!(rig.heard(), [Heard::Power(false), Heard::Message(MESSAGE)]);
    assert!(rig.port.is_shut());
    rig.port.take_out();
    assert_eq!(
        rig.events(),
        PRESENCE_CHANGED | COMPLETED | LINK_CHANGED,
        "gone"
    );
}

#[test]
fn what_is_torn_out_takes_the_link_down() {
    let rig = Rig::with_msi(RootPortConfig::occupied(3));
    rig.control(ON | ALL_EVENTS);
    rig.events();
    rig.port.take_out();
    assert!(rig.port.is_shut() && rig.port.has_power());
    assert_eq!(rig.events(), PRESENCE_CHANGED | LINK_CHANGED);
    rig.port.insert();
    assert!(!rig.port.is_shut(), "the slot still has power");
    assert_eq!(
        rig.events(),
        PRESENT | PRESENCE_CHANGED | PRESSED | LINK_CHANGED
    );
}

#[test]
fn one_message_tells_of_events_until_they_are_cleared() {
    let rig = Rig::with_msi(RootPortConfig::occupied(3));
    rig.control(ON | ALL_EVENTS);
    rig.events();
    rig.heard();
    rig.port.press_attention();
    rig.port.take_out();
    assert_eq!(rig.heard(), [Heard::Message(MESSAGE)]);
    rig.events();
    rig.port.insert();
    assert_eq!(rig.heard(), [Heard::Message(MESSAGE)]);
}

#[test]
fn a_message_that_is_masked_waits() {
    let rig = Rig::with_msi(RootPortConfig::occupied(3));
    rig.control(ON | ALL_EVENTS);
    rig.events();
    rig.heard();
    let mask = find(&rig.port, 0x05) + 16;
    rig.write(mask, 4, 1);
    rig.port.press_attention();
    assert_eq!(rig.heard(), []);
    rig.write(mask, 4, 0);
    assert_eq!(rig.heard(), [Heard::Message(MESSAGE)]);
}

#[test]
fn without_msi_the_pin_is_up_while_there_is_something_to_tell() {
    let rig = Rig::new(RootPortConfig::occupied(3));
    rig.control(ON | ALL_EVENTS);
    assert_eq!(rig.heard(), [Heard::Pin(true)], "the command is complete");
    rig.events();
    assert_eq!(rig.heard(), [Heard::Pin(false)]);
    rig.port.press_attention();
    assert_eq!(rig.heard(), [Heard::Pin(true)]);
    rig.write(0x04, 2, 0x404);
    assert_eq!(rig.heard(), [Heard::Pin(false)], "INTx disabled");
    rig.write(0x04, 2, 0x004);
    rig.heard();
    rig.port.reset();
    assert_eq!(rig.heard(), [Heard::Pin(false)]);
}

#[test]
fn events_that_are_not_enabled_are_shown_and_not_told() {
    let rig = Rig::with_msi(RootPortConfig::occupied(3));
    rig.control(ON);
    rig.port.press_attention();
    rig.port.take_out();
    assert_eq!(rig.heard(), []);
    assert_eq!(
        rig.events(),
        PRESSED | PRESENCE_CHANGED | COMPLETED | LINK_CHANGED
    );
}

#[test]
fn only_a_bus_master_sends_messages() {
    let rig = Rig::with_msi(RootPortConfig::occupied(3));
    rig.control(ON | ALL_EVENTS);
    rig.events();
    rig.heard();
    rig.write(0x04, 2, 0);
    rig.port.press_attention();
    assert_eq!(rig.heard(), []);
}

#[test]
fn a_reset_keeps_what_is_in_the_slot_and_tells_of_nothing() {
    let rig = Rig::with_msi(RootPortConfig::empty(3));
    rig.control(OFF | ALL_EVENTS);
    rig.port.insert();
    rig.port.reset();
    assert!(!rig.port.is_shut() && rig.port.has_power());
    assert_eq!(read(&rig.port, rig.express + 0x18, 2), ON);
    assert_eq!(rig.events(), PRESENT);
    rig.port.take_out();
    rig.port.reset();
    assert!(rig.port.is_shut() && !rig.port.has_power());
    assert_eq!(rig.events(), 0);
}

mod errors {
    use super::*;

    const PORT: Bdf = Bdf::new(0, 0x10, 2);
    const AER: u16 = 0x100;
    const ROOT_COMMAND: u16 = AER + 0x2c;
    const ROOT_STATUS: u16 = AER + 0x30;

    fn link_error() -> UncorrectableErrors {
        let mut errors = UncorrectableErrors(0);
        errors.set_data_link_protocol(true);
        errors
    }

    /// As Linux sets a port up: all reporting on.
    fn listening() -> Rig {
        let rig = Rig::with_msi(RootPortConfig::occupied(3));
        rig.write(rig.express + 0x08, 2, 0x000f);
        rig.write(ROOT_COMMAND, 4, 7);
        rig
    }

    #[test]
    fn a_fatal_error_is_logged_and_told_with_its_source() {
        let rig = listening();
        rig.port.report(link_error(), PORT);
        assert_eq!(rig.heard(), [Heard::Message(MESSAGE)]);
        assert_eq!(read(&rig.port, AER + 4, 4), 1 << 4);
        assert_eq!(read(&rig.port, ROOT_STATUS, 4), 0b101_0100);
        assert_eq!(read(&rig.port, AER + 0x36, 2), 0x0082);
        assert_eq!(read(&rig.port, rig.express + 0x0a, 2), 1 << 2);

        rig.port.report(link_error(), PORT);
        assert_eq!(rig.heard(), []);
        assert_eq!(read(&rig.port, ROOT_STATUS, 4), 0b101_1100, "several");
        rig.write(ROOT_STATUS, 4, 0x7f);
        rig.port.report(link_error(), PORT);
        assert_eq!(rig.heard(), [Heard::Message(MESSAGE)]);
    }

    #[test]
    fn severity_is_what_software_says() {
        let rig = listening();
        rig.write(AER + 0x0c, 4, 0);
        rig.port.report(link_error(), PORT);
        assert_eq!(read(&rig.port, ROOT_STATUS, 4), 0b010_0100);
        assert_eq!(rig.heard(), [Heard::Message(MESSAGE)]);
    }

    #[test]
    fn what_is_masked_or_not_to_be_reported_is_logged_alone() {
        let rig = listening();
        rig.write(AER + 0x08, 4, 1 << 4);
        rig.port.report(link_error(), PORT);
        assert_eq!(read(&rig.port, AER + 4, 4), 1 << 4);
        assert_eq!(read(&rig.port, ROOT_STATUS, 4), 0);

        let rig = listening();
        rig.write(rig.express + 0x08, 2, 0);
        rig.port.report(link_error(), PORT);
        assert_eq!(read(&rig.port, ROOT_STATUS, 4), 0);
        assert_eq!(read(&rig.port, rig.express + 0x0a, 2), 1 << 2);
        assert_eq!(rig.heard(), []);
    }
}

mod any_order {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is done to it, what the slot shows agrees with what is in it.
        #[test]
        fn the_link_is_up_when_there_is_something_that_has_power(
            steps in prop::collection::vec((0u8..5, any::<u16>()), 0..40),
        ) {
            let rig = Rig::with_msi(RootPortConfig::empty(3));
            let mut occupied = false;
            for (step, value) in steps {
                match step {
                    0 => { rig.port.insert(); occupied = true; }
                    1 => { rig.port.take_out(); occupied = false; }
                    2 => drop(rig.control(value.into())),
                    3 => rig.port.press_attention(),
                    _ => drop(rig.write(rig.express + 0x1a, 2, value.into())),
                }
                let status = read(&rig.port, rig.express + 0x1a, 2);
                prop_assert_eq!(status & PRESENT != 0, occupied);
                prop_assert_eq!(rig.is_link_up(), occupied && rig.port.has_power());
                prop_assert_eq!(rig.port.is_shut(), !rig.is_link_up());
            }
        }
    }
}
