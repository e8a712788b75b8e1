//! One counter of an 8254, as a function of time.
//!
//! Nothing counts: what the counting element holds and what the output is follow from when
//! it was loaded. Times are in ticks of the counter's clock; a count that is written or
//! triggered in one tick is loaded in the next.

use super::registers::{ControlWord, CounterStatus};

/// A time in ticks of the counter's clock.
pub type Tick = i64;

/// Where the counter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Phase {
    /// Waits for a count.
    Idle,
    /// Has a count and waits for a trigger (modes 1 and 5).
    Armed,
    /// Is held by its gate and will start over (modes 2 and 3).
    Held,
    /// Is held by its gate so many ticks after loading `count` and will go on (0 and 4).
    Paused {
        /// Ticks counted.
        elapsed: Tick,
        /// What was loaded.
        count: i64,
    },
    /// Counts.
    Counting {
        /// When `count` is or was loaded.
        loaded: Tick,
        /// What is loaded.
        count: i64,
        /// When the count register takes over (modes 2 and 3).
        switch: Option<Tick>,
    },
}

/// A counter.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Counter {
    /// Control word; its counter bits mean nothing here.
    pub control: u8,
    /// The count register: 1 to 65536, or to 16665 for odd BCD.
    pub reload: i64,
    /// The first of two bytes of a count.
    pub low_byte: Option<u8>,
    /// The next of two reads gives the high byte.
    pub read_high: bool,
    /// Latched count.
    pub latched_count: Option<u16>,
    /// Latched status.
    pub latched_status: Option<u8>,
    /// The gate input.
    pub gate: bool,
    /// The count register is not in the counting element.
    pub null_count: bool,
    /// What the counting element holds while it does not count.
    pub element: u16,
    /// What it is doing.
    pub phase: Phase,
}

const ACCESS_LOW: u8 = 1;
const ACCESS_HIGH: u8 = 2;

impl Counter {
    /// An idle counter with its output low; the data sheet leaves power-on state open.
    pub fn new(gate: bool) -> Self {
        Self {
            control: 0x30,
            reload: 0x1_0000,
            low_byte: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
            gate,
            null_count: true,
            element: 0,
            phase: Phase::Idle,
        }
    }

    fn control(&self) -> ControlWord {
        ControlWord(self.control)
    }

    fn mode(&self) -> u8 {
        self.control().mode()
    }

    /// Modes 2 and 3 start over by themselves.
    pub fn is_periodic(&self) -> bool {
        matches!(self.mode(), 2 | 3)
    }

    /// Lets what is due at `now` happen to the registers.
    pub fn settle(&mut self, now: Tick) {
        let Phase::Counting { loaded, switch, .. } = self.phase else {
            return;
        };
        if let Some(at) = switch.filter(|at| *at <= now) {
            self.switch_over(at);
        }
        if now >= loaded && switch.is_none_or(|at| at <= now) && !self.waits_for_trigger() {
            self.null_count = false;
        }
    }

    /// A new count in modes 1 and 5 waits for a trigger, though the old one counts on.
    fn waits_for_trigger(&self) -> bool {
        let Phase::Counting { count, .. } = self.phase else {
            return true;
        };
        matches!(self.mode(), 1 | 5) && count != self.reload
    }

    /// The period or half period ended at `at`, and the count register takes over.
    fn switch_over(&mut self, at: Tick) {
        let was_high = self.output(at - 1);
        let count = self.reload;
        // In mode 3 a count may come into force in the middle, with the output's low half.
        let half = if self.mode() == 3 && was_high {
            (count + 1) / 2
        } else {
            0
        };
        self.phase = Phase::Counting {
            loaded: at - half,
            count,
            switch: None,
        };
    }

    /// The output.
    pub fn output(&self, now: Tick) -> bool {
        let (elapsed, count) = match self.phase {
            Phase::Idle => return self.mode() != 0,
            Phase::Armed | Phase::Held => return true,
            Phase::Paused { elapsed, count } => (elapsed, count),
            Phase::Counting { loaded, count, .. } => (now - loaded, count),
        };
        if elapsed < 0 {
            return self.mode() != 0;
        }
        match self.mode() {
            0 | 1 => elapsed >= count,
            2 => elapsed % count != count - 1,
            3 => elapsed % count < (count + 1) / 2,
            _ => elapsed != count,
        }
    }

    /// What the counting element holds.
    pub fn value(&self, now: Tick) -> u16 {
        let (elapsed, count) = match self.phase {
            Phase::Paused { elapsed, count } => (elapsed, count),
            Phase::Counting { loaded, count, .. } => (now - loaded, count),
            _ => return self.element,
        };
        if elapsed < 0 {
            return self.element;
        }
        let value = match self.mode() {
            2 => count - elapsed % count,
            3 => square_wave(elapsed % count, count),
            _ => count - elapsed,
        };
        self.encode(value)
    }

    /// When the output next rises, after `now`.
    pub fn next_rise(&self, now: Tick) -> Option<Tick> {
        let Phase::Counting {
            loaded,
            count,
            switch,
        } = self.phase
        else {
            return None;
        };
        let rise = match self.mode() {
            0 | 1 => loaded + count,
            2 | 3 if count < 2 => Tick::MAX, // not a count for these modes
            2 | 3 => loaded + ((now - loaded).max(0) / count + 1) * count,
            _ => loaded + count + 1,
        };
        if let Some(at) = switch.filter(|at| *at < rise) {
            let mut later = self.clone();
            later.switch_over(at);
            return later.next_rise(now.max(at));
        }
        (rise > now && rise != Tick::MAX).then_some(rise)
    }

    /// Ticks from one rise to the next, if it is periodic and counts.
    pub fn period(&self) -> Option<Tick> {
        match self.phase {
            Phase::Counting { count, .. } if self.is_periodic() => Some(count),
            _ => None,
        }
    }

    /// A control word: the output goes to where its mode begins and counting stops.
    pub fn write_control(&mut self, control: ControlWord, now: Tick) {
        self.element = self.value(now);
        self.control = control.0 & 0x3f;
        self.low_byte = None;
        self.read_high = false;
        self.latched_count = None;
        self.latched_status = None;
        self.null_count = true;
        self.phase = Phase::Idle;
    }

    /// A byte of a count.
    pub fn write_count(&mut self, byte: u8, now: Tick) {
        let value = match (self.control().access(), self.low_byte.take()) {
            (ACCESS_LOW, _) => u16::from(byte),
            (ACCESS_HIGH, _) => u16::from(byte) << 8,
            (_, Some(low)) => u16::from_le_bytes([low, byte]),
            (_, None) => {
                self.low_byte = Some(byte);
                if self.mode() == 0 {
                    // The first of two bytes stops the count, and the output goes low.
                    self.element = self.value(now);
                    self.phase = Phase::Idle;
                }
                return;
            }
        };
        self.reload = self.decode(value);
        self.null_count = true;
        self.start(now);
    }

    /// The count register was written.
    fn start(&mut self, now: Tick) {
        match (self.mode(), self.phase) {
            (1 | 5, Phase::Idle) => self.phase = Phase::Armed,
            // They load when triggered.
            (1 | 5, _) => {}
            (2 | 3, Phase::Counting { loaded, count, .. }) if now >= loaded => {
                let step = now - loaded;
                let into = step % count;
                let half = (count + 1) / 2;
                let ahead = if self.mode() == 3 && into < half {
                    half - into
                } else {
                    count - into
                };
                self.phase = Phase::Counting {
                    loaded,
                    count,
                    switch: Some(now + ahead),
                };
            }
            (2 | 3, _) if !self.gate => self.phase = Phase::Held,
            (0 | 4, _) if !self.gate => {
                self.null_count = false;
                self.phase = Phase::Paused {
                    elapsed: 0,
                    count: self.reload,
                };
            }
            _ => self.load(now),
        }
    }

    fn load(&mut self, now: Tick) {
        self.element = self.value(now);
        self.phase = Phase::Counting {
            loaded: now + 1,
            count: self.reload,
            switch: None,
        };
    }

    /// The gate input (8254, figure 21 "Gate pin operations summary").
    pub fn set_gate(&mut self, gate: bool, now: Tick) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        match (self.mode(), self.phase, gate) {
            (0 | 4, Phase::Counting { loaded, count, .. }, false) => {
                let elapsed = (now - loaded).max(0);
                self.phase = Phase::Paused { elapsed, count };
            }
            (0 | 4, Phase::Paused { elapsed, count }, true) => {
                self.phase = Phase::Counting {
                    loaded: now - elapsed,
                    count,
                    switch: None,
                };
            }
            (2 | 3, Phase::Counting { .. }, false) => {
                self.element = self.value(now);
                self.phase = Phase::Held;
            }
            (2 | 3, Phase::Held, true) => self.load(now),
            (1 | 5, Phase::Armed | Phase::Counting { .. }, true) => self.load(now),
            _ => {}
        }
    }

    /// Latches the count, unless one is latched and not yet read.
    pub fn latch_count(&mut self, now: Tick) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(now));
        }
    }

    /// Latches the status, likewise.
    pub fn latch_status(&mut self, now: Tick) {
        if self.latched_status.is_none() {
            self.settle(now);
            let mut status = CounterStatus(self.control);
            status.set_null_count(self.null_count);
            status.set_output(self.output(now));
            self.latched_status = Some(status.0);
        }
    }

    /// A read of the counter's port: latched status, latched count or the count as it is.
    pub fn read(&mut self, now: Tick) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or(self.value(now)).to_le_bytes();
        let (byte, done) = match self.control().access() {
            ACCESS_LOW => (low, true),
            ACCESS_HIGH => (high, true),
            _ => {
                self.read_high = !self.read_high;
                if self.read_high {
                    (low, false)
                } else {
                    (high, true)
                }
            }
        };
        if done {
            self.latched_count = None;
        }
        byte
    }

    /// A count from what was written; zero is the largest.
    fn decode(&self, value: u16) -> i64 {
        match (value, self.control().bcd()) {
            (0, true) => 10_000,
            (0, false) => 0x1_0000,
            (value, true) => (0..4).rev().fold(0, |sum, digit| {
                sum * 10 + i64::from(value >> (4 * digit) & 0xf)
            }),
            (value, false) => value.into(),
        }
    }

    /// And back, modulo the range.
    fn encode(&self, value: i64) -> u16 {
        if !self.control().bcd() {
            return value as u16;
        }
        let value = value.rem_euclid(10_000) as u16;
        let digit = |of: u16| value / of % 10;
        digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1)
    }
}

/// The counting element in mode 3, which counts by two: an odd count loses one as it is
/// loaded and then takes one tick more in the high half.
fn square_wave(into: i64, count: i64) -> i64 {
    let half = (count + 1) / 2;
    let from = count & !1;
    let into_half = if into < half { into } else { into - half };
    from - 2 * into_half
}
