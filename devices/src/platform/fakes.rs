//! Stand-ins for what surrounds the devices, for their tests.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::irq::{IrqLine, LineSink};
use crate::platform::ports::BytePorts;
use crate::platform::power::PowerControl;
use crate::time::{Alarm, Alarmed, Clock, Nanos};

/// Remembers every change of level.
#[derive(Default)]
pub struct Probe(Mutex<Vec<bool>>);

impl Probe {
    pub fn line() -> (Arc<Self>, IrqLine) {
        let probe = Arc::new(Self::default());
        (probe.clone(), IrqLine::new(probe))
    }

    pub fn level(&self) -> bool {
        self.0.lock().unwrap().last().copied().unwrap_or(false)
    }

    pub fn history(&self) -> Vec<bool> {
        self.0.lock().unwrap().clone()
    }

    /// How often the level rose since this was last asked.
    pub fn take_rises(&self) -> usize {
        let mut history = self.0.lock().unwrap();
        let level = history.last().copied().unwrap_or(false);
        let rises = history.windows(2).filter(|w| w == &[false, true]).count();
        *history = vec![level];
        rises
    }
}

impl LineSink for Probe {
    fn set(&self, asserted: bool) {
        let mut history = self.0.lock().unwrap();
        if history.is_empty() && !asserted {
            history.push(false);
        } else if history.last() != Some(&asserted) {
            history.push(asserted);
        }
    }
}

/// A clock that is moved by hand.
#[derive(Default)]
pub struct FakeClock(AtomicU64);

impl FakeClock {
    pub fn set(&self, now: Nanos) {
        self.0.store(now, Ordering::SeqCst);
    }

    pub fn advance(&self, by: Nanos) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::SeqCst)
    }
}

/// An alarm that goes off when [`run_until`] gets to it.
#[derive(Default)]
pub struct FakeAlarm {
    deadline: Mutex<Option<Nanos>>,
}

impl FakeAlarm {
    pub fn deadline(&self) -> Option<Nanos> {
        *self.deadline.lock().unwrap()
    }
}

impl Alarm for FakeAlarm {
    fn set(&self, deadline: Option<Nanos>) {
        *self.deadline.lock().unwrap() = deadline;
    }
}

/// Moves `clock` to `end`, letting `alarm` go off on the way as often as it is due, each
/// time `late` after its deadline. Returns how often it did.
pub fn run_until(
    clock: &FakeClock,
    alarm: &FakeAlarm,
    device: &dyn Alarmed,
    end: Nanos,
    late: Nanos,
) -> usize {
    let mut fired = 0;
    loop {
        let due = alarm
            .deadline()
            .map(|d| d.max(clock.now()).saturating_add(late));
        match due {
            Some(due) if due <= end => {
                clock.set(due);
                *alarm.deadline.lock().unwrap() = None;
                device.expired(due);
                fired += 1;
                assert!(fired < 1_000_000, "the alarm never rests");
            }
            _ => break,
        }
    }
    clock.set(end);
    fired
}

/// Counts what is asked of it.
#[derive(Default)]
pub struct FakePower {
    pub resets: AtomicU32,
    pub offs: AtomicU32,
}

impl FakePower {
    pub fn resets(&self) -> u32 {
        self.resets.load(Ordering::SeqCst)
    }

    pub fn offs(&self) -> u32 {
        self.offs.load(Ordering::SeqCst)
    }
}

impl PowerControl for FakePower {
    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }

    fn power_off(&self) {
        self.offs.fetch_add(1, Ordering::SeqCst);
    }
}

/// Drives random byte accesses at a device; what matters is that it survives.
pub fn torture(device: &dyn BytePorts, ports: &[u16], accesses: &[(u8, bool, u8)]) {
    for &(which, write, value) in accesses {
        let port = ports[usize::from(which) % ports.len()];
        if write {
            device.write_port(port, value);
        } else {
            device.read_port(port);
        }
    }
}
