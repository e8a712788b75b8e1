//! The interval timer of the PC/AT, an Intel 8254 at 1.193182 MHz on ports 0x40 to 0x43, and
//! port 0x61 (NMI_SC, ICH9 §13.7.1), which gates counter 2 and shows its output.
//!
//! Counter 0's output is IRQ 0. Counter 1, once DRAM refresh, only counts. The speaker has
//! no sound.
//!
//! **Late and lost ticks.** Rises of IRQ 0 are found from the clock, not by counting alarms,
//! so a periodic timer does not drift. When the alarm comes late, the ticks missed are owed
//! and made up at twice the rate, a thousand at most; what is beyond is lost, as is what is
//! owed when the guest programs the counter anew. No two come closer than 100 µs, however
//! small the count: a guest shall not keep the event loop busy.
//!
//! Reset: all counters idle as at power-on, gate 2 and speaker off, nothing owed. (An 8254
//! has no reset pin; firmware programs it.)

mod counter;
mod registers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::counter::Tick;
pub use self::counter::{Counter, Phase};
use self::registers::{ControlWord, READ_BACK, ReadBack, SystemControlB};
use super::ports::{BytePorts, FLOATING, PortRange};
use crate::irq::IrqLine;
use crate::time::{Alarm, Alarmed, Clock, Nanos};

const CONTROL: u16 = 0x43;
const SYSTEM_CONTROL_B: u16 = 0x61;

/// The counters' clock in Hz.
pub const FREQUENCY: u64 = 1_193_182;

/// Ticks that can be owed.
const MOST_OWED: u32 = 1000;

/// The shortest time between two rises of IRQ 0.
const SHORTEST: Nanos = 100_000;

/// DRAM refresh, which toggles a bit of port 0x61, in nanoseconds (18 ticks).
const REFRESH: Nanos = 15_085;

/// What a timer is made of.
pub struct PitConfig {
    /// IRQ 0: counter 0's output.
    pub line: IrqLine,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
    /// Its alarm; set while a rise of IRQ 0 is to come.
    pub alarm: Arc<dyn Alarm>,
}

/// The timer.
pub struct Pit {
    config: PitConfig,
    inner: Mutex<PitState>,
}

/// What a timer is like now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PitState {
    /// The counters.
    pub counters: [Counter; 3],
    /// What was written to port 0x61.
    pub system_control_b: u8,
    /// Up to when, in ticks, rises of counter 0 are accounted for.
    pub accounted: i64,
    /// Rises that IRQ 0 has not seen.
    pub owed: u32,
    /// When, in nanoseconds, the next one may come.
    pub not_before: Nanos,
}

impl PitState {
    fn new(accounted: Tick) -> Self {
        Self {
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
            system_control_b: 0,
            accounted,
            owed: 0,
            not_before: 0,
        }
    }

    /// Adds the rises until `now` to what is owed.
    fn account(&mut self, now: Tick) {
        let counter = &self.counters[0];
        while let Some(rise) = counter.next_rise(self.accounted).filter(|at| *at <= now) {
            if self.owed >= MOST_OWED {
                break;
            }
            self.owed += 1;
            self.accounted = rise;
        }
        self.accounted = now.max(self.accounted);
        for counter in &mut self.counters {
            counter.settle(now);
        }
    }

    /// How long a tick that is made up keeps from the next.
    fn spacing(&self) -> Nanos {
        let period = self.counters[0].period().unwrap_or_default();
        (nanos(period) / 2).max(SHORTEST)
    }

    fn deadline(&self) -> Option<Nanos> {
        if self.owed > 0 {
            return Some(self.not_before);
        }
        let rise = self.counters[0].next_rise(self.accounted)?;
        Some(nanos(rise).max(self.not_before))
    }

    fn write_control(&mut self, value: u8, now: Tick) {
        let control = ControlWord(value);
        if control.counter() == READ_BACK {
            let read_back = ReadBack(value);
            for (i, counter) in self.counters.iter_mut().enumerate() {
                if read_back.counters() & 1 << i == 0 {
                    continue;
                }
                if !read_back.no_count() {
                    counter.latch_count(now);
                }
                if !read_back.no_status() {
                    counter.latch_status(now);
                }
            }
        } else if let Some(counter) = self.counters.get_mut(usize::from(control.counter())) {
            match control.access() {
                0 => counter.latch_count(now),
                _ => counter.write_control(control, now),
            }
        }
    }
}

fn ticks(now: Nanos) -> Tick {
    (u128::from(now) * u128::from(FREQUENCY) / 1_000_000_000) as Tick
}

/// The first nanosecond of a tick.
fn nanos(tick: Tick) -> Nanos {
    let tick = u128::from(tick.unsigned_abs());
    (tick * 1_000_000_000).div_ceil(u128::from(FREQUENCY)) as Nanos
}

impl Pit {
    /// A timer as after power-on.
    pub fn new(config: PitConfig) -> Self {
        let now = ticks(config.clock.now());
        Self {
            config,
            inner: Mutex::new(PitState::new(now)),
        }
    }

    /// The ports it takes.
    pub fn ports(self: &Arc<Self>) -> Vec<PortRange> {
        [(0x40, 4), (SYSTEM_CONTROL_B, 1)]
            .map(|(first, len)| PortRange::new(self.clone(), first, len))
            .into()
    }

    /// Power-on state.
    pub fn reset(&self) {
        let mut state = self.lock();
        *state = PitState::new(ticks(self.config.clock.now()));
        self.config.alarm.set(None);
        self.config.line.set(false);
    }

    /// Its state.
    pub fn state(&self) -> PitState {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, PitState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives IRQ 0 a rise that is owed, if it may come, and sets the alarm for the next.
    fn pay(&self, state: &mut PitState, now: Nanos) {
        if state.owed > 0 && now >= state.not_before {
            state.owed -= 1;
            state.not_before = now.saturating_add(state.spacing());
            self.config.line.set(false);
            self.config.line.set(true);
        }
        self.config.alarm.set(state.deadline());
    }

    /// Reprograms counter 0. Time until now still goes by the old program. IRQ 0 falls with
    /// the output, but rises only as a count ends: that a control word may take the output
    /// from low to high is no interrupt that anyone waits for.
    fn program(&self, action: impl FnOnce(&mut PitState, Tick)) {
        let mut state = self.lock();
        let now = self.config.clock.now();
        let tick = ticks(now);
        state.account(tick);
        self.pay(&mut state, now);
        action(&mut state, tick);
        state.owed = 0;
        state.not_before = state.not_before.min(now.saturating_add(SHORTEST));
        if !state.counters[0].output(tick) {
            self.config.line.set(false);
        }
        self.config.alarm.set(state.deadline());
    }

    fn read_system_control_b(&self) -> u8 {
        let now = self.config.clock.now();
        let state = self.lock();
        let mut value = SystemControlB(state.system_control_b);
        value.set_refresh_toggle((now / REFRESH) & 1 != 0);
        value.set_timer_2_output(state.counters[2].output(ticks(now)));
        value.0
    }

    fn write_system_control_b(&self, value: u8) {
        let mut state = self.lock();
        let now = ticks(self.config.clock.now());
        state.account(now);
        state.system_control_b = value & SystemControlB::WRITABLE;
        state.counters[2].set_gate(SystemControlB(value).timer_2_gate(), now);
    }
}

impl BytePorts for Pit {
    fn read_port(&self, port: u16) -> u8 {
        match port {
            0x40..=0x42 => {
                let mut state = self.lock();
                let now = ticks(self.config.clock.now());
                state.account(now);
                state.counters[usize::from(port & 3)].read(now)
            }
            SYSTEM_CONTROL_B => self.read_system_control_b(),
            // The control word cannot be read.
            _ => FLOATING,
        }
    }

    fn write_port(&self, port: u16, value: u8) {
        match port {
            0x40 => self.program(|state, now| state.counters[0].write_count(value, now)),
            0x41 | 0x42 => {
                let mut state = self.lock();
                let now = ticks(self.config.clock.now());
                state.account(now);
                state.counters[usize::from(port & 3)].write_count(value, now);
            }
            CONTROL if value >> 6 == 0 && value >> 4 & 3 != 0 => {
                self.program(|state, now| state.write_control(value, now));
            }
            CONTROL => {
                let mut state = self.lock();
                let now = ticks(self.config.clock.now());
                state.account(now);
                state.write_control(value, now);
            }
            SYSTEM_CONTROL_B => self.write_system_control_b(value),
            _ => {}
        }
    }
}

impl Alarmed for Pit {
    fn expired(&self, now: Nanos) {
        let mut state = self.lock();
        state.account(ticks(now));
        self.pay(&mut state, now);
    }
}
