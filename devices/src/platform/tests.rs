//! The devices together: a board with a processor that only takes interrupts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use pci::{InterruptPin, MsiMessage};

use super::fakes::{FakeAlarm, FakeClock, run_until};
use super::intx::IntxRouter;
use super::ioapic::{IoApic, IoApicConfig, IoApicOutput};
use super::pic::{Intr, Pic};
use super::pit::{FREQUENCY, Pit, PitConfig};
use super::ports::BytePorts;
use super::serial::{COM1, Peer, Serial};
use crate::bus::Region;

const PATIENCE: Duration = Duration::from_secs(30);

/// A local APIC that notes vectors, each once until it is taken, as an IRR does.
#[derive(Default)]
struct LocalApic {
    pending: Mutex<VecDeque<u8>>,
    changed: Condvar,
}

impl LocalApic {
    fn take(&self) -> Option<u8> {
        self.pending.lock().unwrap().pop_front()
    }

    fn wait(&self) -> Option<u8> {
        let pending = self.pending.lock().unwrap();
        let (mut pending, _) = self
            .changed
            .wait_timeout_while(pending, PATIENCE, |pending| pending.is_empty())
            .unwrap();
        pending.pop_front()
    }
}

impl IoApicOutput for LocalApic {
    fn deliver(&self, _: u8, message: MsiMessage) {
        let mut pending = self.pending.lock().unwrap();
        let vector = message.data as u8;
        if !pending.contains(&vector) {
            pending.push_back(vector);
        }
        self.changed.notify_all();
    }

    fn route(&self, _: u8, _: Option<MsiMessage>) {}
}

#[derive(Default)]
struct IntrPin(AtomicBool);

impl Intr for IntrPin {
    fn set(&self, asserted: bool) {
        self.0.store(asserted, Ordering::SeqCst);
    }
}

struct Board {
    apic: Arc<LocalApic>,
    intr: Arc<IntrPin>,
    ioapic: Arc<IoApic>,
    pic: Arc<Pic>,
    router: IntxRouter,
}

impl Board {
    fn new() -> Self {
        let (apic, intr) = (Arc::new(LocalApic::default()), Arc::new(IntrPin::default()));
        let ioapic = Arc::new(IoApic::new(IoApicConfig {
            output: apic.clone(),
            clock: Arc::new(FakeClock::default()),
            alarm: Arc::new(FakeAlarm::default()),
        }));
        let pic = Arc::new(Pic::new(intr.clone()));
        let router = IntxRouter::new(&pic, &ioapic);
        Self {
            apic,
            intr,
            ioapic,
            pic,
            router,
        }
    }

    fn redirect(&self, pin: u8, entry: u32) {
        self.ioapic.write(0x00, &[0x10 + 2 * pin]);
        self.ioapic.write(0x10, &entry.to_le_bytes());
    }

    fn initialize_pic(&self, mask: u8) {
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 1),
            (0x21, mask),
        ] {
            self.pic.write_port(port, value);
        }
    }
}

#[test]
fn the_timer_ticks_through_both_controllers() {
    let board = Board::new();
    let (clock, alarm) = (
        Arc::new(FakeClock::default()),
        Arc::new(FakeAlarm::default()),
    );
    let pit = Pit::new(PitConfig {
        line: board.router.isa_line(0),
        clock: clock.clone(),
        alarm: alarm.clone(),
    });
    board.initialize_pic(0xfe);
    board.redirect(2, 0x30);
    let divisor = (FREQUENCY / 1000) as u16;
    pit.write_port(0x43, 0x34);
    for byte in divisor.to_le_bytes() {
        pit.write_port(0x40, byte);
    }
    let (mut by_pic, mut by_ioapic) = (0, 0);
    for ms in 1..=1000 {
        run_until(&clock, &alarm, &pit, ms * 1_000_000, 20_000);
        if board.intr.0.load(Ordering::SeqCst) {
            assert_eq!(board.pic.acknowledge(), Some(0x20));
            board.pic.write_port(0x20, 0x20);
            by_pic += 1;
        }
        by_ioapic += usize::from(board.apic.take() == Some(0x30));
    }
    assert_eq!((by_pic, by_ioapic), (999, 999));
}

#[test]
fn functions_share_a_level_pin_until_each_is_served() {
    let board = Board::new();
    let lines = [1, 5, 9].map(|device| board.router.line(device, InterruptPin::IntA));
    board.redirect(21, 0x8000 | 0x41);
    for line in &lines {
        line.set(true);
    }
    let mut taken = 0;
    while let Some(vector) = board.apic.take() {
        // Each interrupt serves one device, as a handler might.
        lines[taken].set(false);
        taken += 1;
        board.ioapic.end_of_interrupt(vector);
    }
    assert_eq!(taken, lines.len());
    assert_eq!(board.ioapic.state().levels, 0);
}

/// Both ends of a cable: what the guest sent, and what waits to be sent to it.
#[derive(Default)]
struct Cable {
    sent: Mutex<Vec<u8>>,
    ready: Condvar,
    wanted: Mutex<bool>,
}

impl Peer for Cable {
    fn transmit(&self, bytes: &[u8]) -> usize {
        self.sent.lock().unwrap().extend(bytes);
        bytes.len()
    }

    fn receive_ready(&self) {
        *self.wanted.lock().unwrap() = true;
        self.ready.notify_all();
    }
}

/// A driver in the manner of Linux's 8250 on an edge-triggered IRQ 4, with input coming in
/// from another thread all the while: nothing may be lost and nobody may get stuck.
#[test]
fn a_serial_driver_on_an_edge_loses_nothing() {
    let board = Board::new();
    let cable = Arc::new(Cable::default());
    let line = board.router.isa_line(4);
    let port = Arc::new(Serial::new(COM1, line, cable.clone()));
    board.redirect(4, 0x34);
    // Before there is input: turning FIFOs on empties them.
    port.write_port(COM1 + 2, 0x81);
    let message: Vec<u8> = (0..5000_u32).map(|i| (i * 7 % 251) as u8).collect();

    let feeder = {
        let (port, cable, message) = (port.clone(), cable.clone(), message.clone());
        thread::spawn(move || {
            let mut left = &message[..];
            while !left.is_empty() {
                let taken = port.receive(left);
                left = &left[taken..];
                let wanted = cable.wanted.lock().unwrap();
                if !left.is_empty() {
                    let (mut wanted, timeout) = cable
                        .ready
                        .wait_timeout_while(wanted, PATIENCE, |wanted| !*wanted)
                        .unwrap();
                    assert!(!timeout.timed_out(), "the port never asked for more");
                    *wanted = false;
                }
            }
        })
    };

    port.write_port(COM1 + 1, 0x03);
    let (mut got, mut to_send) = (Vec::new(), message.iter());
    let mut interrupts = 0;
    while got.len() < message.len() || to_send.len() > 0 {
        assert_eq!(board.apic.wait(), Some(0x34), "after {} bytes", got.len());
        interrupts += 1;
        while port.read_port(COM1 + 2) & 1 == 0 {
            while port.read_port(COM1 + 5) & 1 != 0 {
                got.push(port.read_port(COM1));
            }
            if port.read_port(COM1 + 5) & 0x20 != 0 {
                for byte in to_send.by_ref().take(16) {
                    port.write_port(COM1, *byte);
                }
                if to_send.len() == 0 {
                    port.write_port(COM1 + 1, 0x01);
                }
            }
        }
    }
    feeder.join().unwrap();
    assert_eq!(got, message);
    assert_eq!(*cable.sent.lock().unwrap(), message);
    assert!(interrupts <= 2 * message.len());
}
