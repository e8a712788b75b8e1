use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::platform::fakes::{Probe, torture};

/// A far end with so much room.
#[derive(Default)]
struct Far {
    got: Mutex<Vec<u8>>,
    room: AtomicUsize,
    ready: AtomicUsize,
}

impl Peer for Far {
    fn transmit(&self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room.load(Ordering::SeqCst));
        self.room.fetch_sub(taken, Ordering::SeqCst);
        self.got.lock().unwrap().extend(&bytes[..taken]);
        taken
    }

    fn receive_ready(&self) {
        self.ready.fetch_add(1, Ordering::SeqCst);
    }
}

struct Rig {
    port: Arc<Serial>,
    far: Arc<Far>,
    line: Arc<Probe>,
}

impl Rig {
    fn new() -> Self {
        let (line, irq) = Probe::line();
        let far = Arc::new(Far {
            room: usize::MAX.into(),
            ..Far::default()
        });
        Self {
            port: Arc::new(Serial::new(COM1, irq, far.clone())),
            far,
            line,
        }
    }

    fn out(&self, offset: u16, value: u8) {
        self.port.write_port(COM1 + offset, value);
    }

    fn read(&self, offset: u16) -> u8 {
        self.port.read_port(COM1 + offset)
    }

    fn got(&self) -> Vec<u8> {
        std::mem::take(&mut self.far.got.lock().unwrap())
    }
}

#[test]
fn registers_after_reset_are_those_of_table_i() {
    let rig = Rig::new();
    let values = [1, 2, 3, 4, 5, 6].map(|o| rig.read(o));
    assert_eq!(values, [0, 0x01, 0, 0, 0x60, 0xb0]);
    assert!(!rig.line.level());
}

#[test]
fn the_divisor_hides_behind_its_latch_bit() {
    let rig = Rig::new();
    rig.out(offset::LCR, 0x83);
    rig.out(0, 0x34);
    rig.out(1, 0x12);
    assert_eq!((rig.read(0), rig.read(1)), (0x34, 0x12));
    rig.out(offset::LCR, 0x03);
    assert_eq!(rig.read(offset::IER), 0);
    assert_eq!(rig.port.state().divisor, 0x1234);
    assert_eq!(rig.got(), []);
}

/// Linux's `autoconfig`: scratch and IER bits, the FIFO probe, and the loopback test.
#[test]
fn is_detected_as_a_16550a() {
    let rig = Rig::new();
    rig.out(offset::IER, 0);
    assert_eq!(rig.read(offset::IER), 0);
    rig.out(offset::IER, 0x0f);
    assert_eq!(rig.read(offset::IER), 0x0f);
    rig.out(offset::IER, 0xf0);
    assert_eq!(rig.read(offset::IER), 0, "no sleep mode, as an XR16750 has");
    rig.out(offset::MCR, 0x1a);
    assert_eq!(rig.read(offset::MSR) & 0xf0, 0x90);
    rig.out(offset::MCR, 0xe0);
    assert_eq!(rig.read(offset::MCR), 0, "no automatic flow control");
    rig.out(offset::IIR_FCR, 1);
    assert_eq!(rig.read(offset::IIR_FCR) >> 6, 3);
    rig.out(offset::LCR, 0xbf);
    rig.out(offset::IIR_FCR, 1);
    assert_eq!(rig.read(offset::IIR_FCR) >> 6, 3, "no EFR, as a 16650 has");
    rig.out(offset::LCR, 0);
    rig.out(offset::IIR_FCR, 0);
    assert_eq!(rig.read(offset::IIR_FCR) >> 6, 0);
}

#[test]
fn one_transmitter_interrupt_serves_a_fifo_of_bytes() {
    let rig = Rig::new();
    rig.out(offset::IIR_FCR, 1);
    rig.out(offset::IER, 0x02);
    assert!(rig.line.level(), "enabling it while empty asks for one");
    assert_eq!(rig.read(offset::IIR_FCR), 0xc2);
    assert!(!rig.line.level(), "identified is acknowledged");
    rig.line.take_rises();
    for byte in 0..16 {
        rig.out(0, byte);
    }
    assert_eq!(rig.line.take_rises(), 1);
    assert_eq!(rig.read(offset::LSR), 0x60);
    assert_eq!(rig.read(offset::IIR_FCR), 0xc2);
    assert_eq!(rig.read(offset::IIR_FCR), 0xc1);
    assert_eq!(rig.got(), (0..16).collect::<Vec<_>>());
}

/// Linux's test for UART_BUG_THRE: masking and unmasking asks again.
#[test]
fn reenabling_the_transmitter_interrupt_asks_again() {
    let rig = Rig::new();
    for _ in 0..2 {
        rig.out(offset::IER, 0x02);
        assert_eq!(rig.read(offset::IIR_FCR), 0x02);
        rig.out(offset::IER, 0);
        assert_eq!(rig.read(offset::IIR_FCR), 0x01);
    }
}

#[test]
fn a_masked_transmitter_interrupt_stays_pending() {
    let rig = Rig::new();
    rig.out(offset::IER, 0x02);
    rig.out(offset::IER, 0x00);
    assert!(!rig.line.level());
    rig.out(offset::IER, 0x02);
    assert!(rig.line.level());
}

#[test]
fn receives_through_the_fifo_with_trigger_and_timeout() {
    let rig = Rig::new();
    rig.out(offset::IIR_FCR, 0x41); // trigger at 4
    rig.out(offset::IER, 0x01);
    assert_eq!(rig.port.receive(b"abc"), 3);
    assert!(rig.line.level());
    assert_eq!(rig.read(offset::IIR_FCR), 0xcc);
    assert!(rig.line.level(), "data is acknowledged by reading it");
    assert_eq!(rig.port.receive(b"d"), 1);
    assert_eq!(rig.read(offset::IIR_FCR), 0xc4);
    for expected in b"abcd" {
        assert_eq!(rig.read(offset::LSR) & 1, 1);
        assert_eq!(rig.read(0), *expected);
    }
    assert_eq!(rig.read(offset::LSR), 0x60);
    assert!(!rig.line.level());
    assert_eq!(rig.read(0), 0);
}

#[test]
fn takes_sixteen_and_says_when_there_is_room() {
    let rig = Rig::new();
    rig.out(offset::IIR_FCR, 0x01);
    let bytes: Vec<_> = (0..40).collect();
    assert_eq!(rig.port.receive(&bytes), 16);
    assert!(!rig.port.can_receive());
    for expected in 0..16 {
        assert_eq!(rig.far.ready.load(Ordering::SeqCst), 0);
        assert_eq!(rig.read(0), expected);
    }
    assert_eq!(rig.far.ready.load(Ordering::SeqCst), 1);
    assert_eq!(rig.port.receive(&bytes[16..20]), 4);
    for _ in 0..4 {
        rig.read(0);
    }
    assert_eq!(rig.far.ready.load(Ordering::SeqCst), 1);
    rig.port.receive(&bytes);
    rig.out(offset::IIR_FCR, 0x03);
    assert_eq!(rig.far.ready.load(Ordering::SeqCst), 2);
    assert!(rig.port.can_receive());
}

#[test]
fn without_fifos_there_is_one_byte() {
    let rig = Rig::new();
    rig.out(offset::IER, 0x01);
    assert_eq!(rig.port.receive(b"ab"), 1);
    assert_eq!(rig.read(offset::IIR_FCR), 0x04);
    assert_eq!(rig.read(0), b'a');
    assert_eq!(rig.far.ready.load(Ordering::SeqCst), 1);
}

#[test]
fn a_busy_far_end_holds_the_transmitter() {
    let rig = Rig::new();
    rig.out(offset::IIR_FCR, 0x01);
    rig.far.room.store(2, Ordering::SeqCst);
    rig.out(offset::IER, 0x02);
    rig.read(offset::IIR_FCR);
    for byte in b"hello" {
        rig.out(0, *byte);
    }
    assert_eq!(rig.read(offset::LSR), 0);
    assert_eq!(rig.port.state().holding, b"llo");
    rig.port.drained();
    assert_eq!(rig.read(offset::LSR), 0, "still no room");
    rig.line.take_rises();
    rig.far.room.store(100, Ordering::SeqCst);
    rig.port.drained();
    assert_eq!(rig.got(), b"hello");
    assert_eq!(rig.read(offset::LSR), 0x60);
    assert_eq!(rig.read(offset::IIR_FCR), 0xc2);
}

#[test]
fn a_guest_that_does_not_look_overwrites_what_is_held() {
    let rig = Rig::new();
    rig.far.room.store(0, Ordering::SeqCst);
    for byte in 0..10 {
        rig.out(0, byte);
    }
    assert_eq!(rig.port.state().holding, [9]);
    rig.out(offset::IIR_FCR, 0x01);
    for byte in 0..100 {
        rig.out(0, byte);
    }
    assert_eq!(rig.port.state().holding.len(), 16);
}

#[test]
fn loopback_connects_data_and_modem_lines() {
    let rig = Rig::new();
    rig.out(offset::MCR, 0x10);
    assert_eq!(rig.read(offset::MSR), 0x0b, "what went off, noted");
    assert_eq!(rig.read(offset::MSR), 0x00);
    for (mcr, msr) in [(0x11, 0x22), (0x12, 0x13), (0x14, 0x41), (0x18, 0x8c)] {
        rig.out(offset::MCR, mcr);
        assert_eq!(rig.read(offset::MSR), msr, "{mcr:#x}");
    }
    assert_eq!(rig.port.receive(b"x"), 0);
    rig.out(offset::IER, 0x05);
    rig.out(0, b'1');
    assert_eq!(rig.read(offset::IIR_FCR), 0x04);
    rig.out(0, b'2');
    assert_eq!(rig.read(offset::IIR_FCR), 0x06, "overrun comes first");
    assert_eq!(rig.read(offset::LSR), 0x63);
    assert_eq!(rig.read(0), b'1');
    assert_eq!(rig.got(), []);
}

#[test]
fn modem_status_interrupts() {
    let rig = Rig::new();
    rig.out(offset::IER, 0x08);
    rig.out(offset::MCR, 0x10);
    assert!(rig.line.level());
    assert_eq!(rig.read(offset::IIR_FCR), 0x00);
    rig.read(offset::MSR);
    assert!(!rig.line.level());
}

#[test]
fn reset_keeps_scratch_and_divisor_only() {
    let rig = Rig::new();
    rig.out(offset::SCR, 0x5a);
    rig.out(offset::LCR, 0x80);
    rig.out(0, 1);
    rig.out(offset::LCR, 3);
    rig.out(offset::IIR_FCR, 0xc1);
    rig.out(offset::IER, 0x0f);
    rig.port.receive(b"abc");
    assert!(rig.line.level());
    rig.port.reset();
    assert!(!rig.line.level());
    let mut fresh = Rig::new().port.state();
    (fresh.scratch, fresh.divisor) = (0x5a, 1);
    assert_eq!(rig.port.state(), fresh);
}

proptest! {
    #[test]
    fn survives_anything_and_keeps_its_bounds(
        steps in prop::collection::vec((any::<u8>(), any::<bool>(), any::<u8>()), 0..300)
    ) {
        let rig = Rig::new();
        let ports: Vec<_> = (COM1..COM1 + 9).collect();
        for step in steps {
            torture(&*rig.port, &ports, &[step]);
            rig.far.room.store(usize::from(step.2 & 3), Ordering::SeqCst);
            match step.0 >> 6 {
                0 => { rig.port.receive(&[step.2; 20]); }
                1 => rig.port.drained(),
                _ => {}
            }
            let state = rig.port.state();
            prop_assert!(state.received.len() <= FIFO && state.holding.len() <= FIFO);
            prop_assert_eq!(state.interrupting, rig.line.level());
        }
    }
}
