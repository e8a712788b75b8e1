//! The real-time clock and CMOS RAM: a Motorola MC146818A with the second bank of ICH9
//! (§13.6), at ports 0x70 to 0x73 (and again to 0x77).
//!
//! Its time is the host's wall clock plus what the guest has set; the registers are computed
//! when read, so a clock that nobody asks costs nothing. Flags are settled when looked at,
//! and an alarm is set only for an interrupt that is enabled and not yet pending. Periods
//! that pass while the flag is set are one, as on the chip.
//!
//! Not modelled: daylight saving, the square wave, the day-of-month alarm of register D,
//! the lock bits of the banks.
//!
//! Reset (MC146818A, RESET pin): interrupt enables and flags and SQWE are cleared and NMIs
//! masked; time, alarm, formats and RAM are on the battery and stay.

mod calendar;
mod registers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use self::calendar::{DailyAlarm, Date, Format};
use self::registers::{RegisterA, RegisterB, RegisterC, VALID, cell, index};
use super::ports::{BytePorts, FLOATING, PortRange};
use crate::irq::IrqLine;
use crate::time::{Alarm, Alarmed, Clock, Nanos};

const SECOND: i128 = 1_000_000_000;

/// Update in progress is shown this long before an update: 244 µs (MC146818A, table 5).
const UPDATE_NEAR: i128 = 244_141;

/// After the divider is let go the first update comes half a second later.
const AFTER_DIVIDER_RESET: i128 = SECOND / 2;

/// An alarm far away is looked at again this often, as the host's clock may be set.
const LOOK_AGAIN: Nanos = 60_000_000_000;

/// Frequency of the crystal.
const CRYSTAL: u128 = 32_768;

/// The time of day.
pub trait WallClock: Send + Sync {
    /// Now. May jump.
    fn now(&self) -> SystemTime;
}

/// The host's time of day.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostWallClock;

impl WallClock for HostWallClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// What a clock is made of.
pub struct RtcConfig {
    /// IRQ 8.
    pub line: IrqLine,
    /// The time of day that it starts with and goes by.
    pub wall: Arc<dyn WallClock>,
    /// The machine's clock, for periods and deadlines.
    pub clock: Arc<dyn Clock>,
    /// Its alarm.
    pub alarm: Arc<dyn Alarm>,
    /// Bytes of RAM below 4 GiB, for the cells that firmware reads.
    pub memory_below_4g: u64,
    /// Bytes of RAM above.
    pub memory_above_4g: u64,
    /// Processors.
    pub processors: u32,
}

/// The clock and its RAM.
pub struct Rtc {
    config: RtcConfig,
    inner: Mutex<Inner>,
}

/// What a clock is like now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RtcState {
    /// Selected cell of each bank.
    pub index: [u8; 2],
    /// NMIs are masked (bit 7 of port 0x70).
    pub nmi_masked: bool,
    /// Both banks; the time registers only hold the time while it is being set.
    pub ram: Vec<u8>,
    /// Interrupt flags.
    pub flags: u8,
    /// How far the guest's time is ahead of the host's, in nanoseconds.
    pub ahead: i128,
    /// Updates are stopped.
    pub stopped: bool,
    /// The interrupt line.
    pub interrupting: bool,
}

struct Inner {
    index: [u8; 2],
    nmi_masked: bool,
    ram: [u8; 256],
    flags: RegisterC,
    /// Guest time minus wall time.
    ahead: i128,
    /// SET or a divider in reset: the time registers hold still.
    stopped: bool,
    /// The second up to which updates and alarms are accounted for.
    second: i64,
    /// And the period.
    period: u128,
    interrupting: bool,
}

/// The two times, read once per access.
#[derive(Clone, Copy)]
struct Now {
    /// Wall clock, nanoseconds since 1970.
    wall: i128,
    /// The machine's clock.
    clock: Nanos,
}

impl Rtc {
    /// A clock that has run on its battery until now.
    pub fn new(config: RtcConfig) -> Self {
        let mut inner = Inner::new(&config);
        let rtc = Self {
            inner: Mutex::new(Inner::new(&config)),
            config,
        };
        let now = rtc.now();
        inner.second = inner.seconds(now);
        *rtc.lock() = inner;
        rtc
    }

    /// The ports it takes.
    pub fn ports(self: &Arc<Self>) -> Vec<PortRange> {
        vec![PortRange::new(self.clone(), 0x70, 8)]
    }

    /// Whether port 0x70 masks NMIs.
    pub fn nmi_masked(&self) -> bool {
        self.lock().nmi_masked
    }

    /// Puts a value into a CMOS cell that is not one of the clock's own, for firmware to
    /// read: a boot order, say.
    pub fn put(&self, cell: u8, value: u8) {
        if cell > index::D && cell != index::CENTURY {
            self.lock().ram[usize::from(cell)] = value;
        }
    }

    /// The RESET pin.
    pub fn reset(&self) {
        self.change(|inner, _| {
            let mut b = inner.b();
            b.set_periodic(false);
            b.set_alarm(false);
            b.set_update_ended(false);
            b.set_square_wave(false);
            inner.ram[usize::from(index::B)] = b.0;
            inner.flags = RegisterC(0);
            inner.index = [0; 2];
            inner.nmi_masked = true;
        });
    }

    /// Its state.
    pub fn state(&self) -> RtcState {
        let inner = self.lock();
        RtcState {
            index: inner.index,
            nmi_masked: inner.nmi_masked,
            ram: inner.ram.to_vec(),
            flags: inner.flags.0,
            ahead: inner.ahead,
            stopped: inner.stopped,
            interrupting: inner.interrupting,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        let wall = self.config.wall.now();
        let wall = match wall.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i128,
            Err(before) => -(before.duration().as_nanos() as i128),
        };
        Now {
            wall,
            clock: self.config.clock.now(),
        }
    }

    /// Settles what time has brought, does something, and lets line and alarm follow.
    fn change<T>(&self, action: impl FnOnce(&mut Inner, Now) -> T) -> T {
        let mut inner = self.lock();
        let now = self.now();
        inner.settle(now);
        let result = action(&mut inner, now);
        let interrupting = inner.b().0 & inner.flags.0 & RegisterC::FLAGS != 0;
        if inner.interrupting != interrupting {
            inner.interrupting = interrupting;
            self.config.line.set(interrupting);
        }
        self.config.alarm.set(inner.deadline(now));
        result
    }

    fn read_cell(&self, cell: u8) -> u8 {
        match cell {
            index::C => self.change(|inner, _| {
                let mut flags = std::mem::replace(&mut inner.flags, RegisterC(0));
                flags.set_interrupt(flags.0 & inner.b().0 & RegisterC::FLAGS != 0);
                flags.0
            }),
            index::D => VALID,
            index::A => {
                let now = self.now();
                let inner = self.lock();
                let mut a = inner.a();
                a.set_update_in_progress(inner.update_is_near(now));
                a.0
            }
            cell if is_time(cell) => {
                let now = self.now();
                let inner = self.lock();
                if inner.stopped {
                    inner.ram[usize::from(cell)]
                } else {
                    inner.time_register(cell, inner.seconds(now))
                }
            }
            cell => self.lock().ram[usize::from(cell)],
        }
    }

    fn write_cell(&self, cell: u8, value: u8) {
        match cell {
            index::A => self.change(|inner, now| inner.write_control(cell, value & 0x7f, now)),
            index::B => self.change(|inner, now| {
                let mut b = RegisterB(value);
                if b.set() {
                    b.set_update_ended(false);
                }
                inner.write_control(cell, b.0, now);
            }),
            index::C | index::D => {}
            cell if is_time(cell) => self.change(|inner, now| inner.write_time(cell, value, now)),
            index::SECONDS_ALARM | index::MINUTES_ALARM | index::HOURS_ALARM => {
                self.change(|inner, _| inner.ram[usize::from(cell)] = value);
            }
            cell => self.lock().ram[usize::from(cell)] = value,
        }
    }
}

/// The registers that time itself changes.
fn is_time(cell: u8) -> bool {
    matches!(
        cell,
        index::SECONDS
            | index::MINUTES
            | index::HOURS
            | index::WEEKDAY
            | index::DAY
            | index::MONTH
            | index::YEAR
            | index::CENTURY
    )
}

const TIME_REGISTERS: [u8; 8] = [
    index::SECONDS,
    index::MINUTES,
    index::HOURS,
    index::WEEKDAY,
    index::DAY,
    index::MONTH,
    index::YEAR,
    index::CENTURY,
];

impl Inner {
    fn new(config: &RtcConfig) -> Self {
        let mut ram = [0; 256];
        ram[usize::from(index::A)] = 0x26; // 32768 Hz, periods of 1/1024 s
        ram[usize::from(index::B)] = 0x02; // 24 hours, BCD
        let mut put = |cell: u8, value: u64, bytes: usize| {
            let cell = usize::from(cell);
            ram[cell..cell + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        };
        let from = |start: u64, unit: u64| {
            let there = config.memory_below_4g.saturating_sub(start) / unit;
            there.min(u64::from(u16::MAX))
        };
        put(cell::EQUIPMENT, 0x02, 1); // an FPU
        put(cell::BASE_MEMORY, 640, 2);
        put(cell::EXTENDED_MEMORY, from(1 << 20, 1 << 10), 2);
        put(cell::EXTENDED_MEMORY_FOUND, from(1 << 20, 1 << 10), 2);
        put(cell::MEMORY_ABOVE_16M, from(16 << 20, 1 << 16), 2);
        let above = (config.memory_above_4g >> 16).min(0xff_ffff);
        put(cell::MEMORY_ABOVE_4G, above, 3);
        let more = u64::from(config.processors.saturating_sub(1)).min(0xff);
        put(cell::MORE_PROCESSORS, more, 1);
        Self {
            index: [0; 2],
            nmi_masked: true,
            ram,
            flags: RegisterC(0),
            ahead: 0,
            stopped: false,
            second: 0,
            period: 0,
            interrupting: false,
        }
    }

    fn a(&self) -> RegisterA {
        RegisterA(self.ram[usize::from(index::A)])
    }

    fn b(&self) -> RegisterB {
        RegisterB(self.ram[usize::from(index::B)])
    }

    fn seconds(&self, now: Now) -> i64 {
        (now.wall + self.ahead).div_euclid(SECOND) as i64
    }

    fn phase(&self, now: Now) -> i128 {
        (now.wall + self.ahead).rem_euclid(SECOND)
    }

    fn update_is_near(&self, now: Now) -> bool {
        !self.stopped && self.phase(now) >= SECOND - UPDATE_NEAR
    }

    /// Periods passed since the clock began.
    fn periods(&self, now: Now) -> Option<u128> {
        let a = self.a();
        let period = a.period().filter(|_| a.runs())?;
        Some(u128::from(now.clock) * CRYSTAL / 1_000_000_000 / u128::from(period))
    }

    fn settle(&mut self, now: Now) {
        let second = self.seconds(now);
        if !self.stopped && second > self.second {
            self.flags.set_update_ended(true);
            let passed = second - self.second;
            if self
                .daily_alarm()
                .next(self.second)
                .is_some_and(|a| a <= passed)
            {
                self.flags.set_alarm(true);
            }
        }
        self.second = second;
        if let Some(period) = self.periods(now) {
            if period != self.period {
                self.flags.set_periodic(true);
            }
            self.period = period;
        }
    }

    /// When the next interrupt comes that is enabled and not pending.
    fn deadline(&self, now: Now) -> Option<Nanos> {
        let (b, flags) = (self.b(), self.flags);
        let to_update = (SECOND - self.phase(now)) as Nanos;
        let period = self.a().period().unwrap_or_default();
        let periodic = (b.periodic() && !flags.periodic())
            .then(|| self.periods(now))
            .flatten()
            .map(|passed| {
                let ticks = (passed + 1) * u128::from(period);
                (ticks * 1_000_000_000).div_ceil(CRYSTAL) as Nanos
            });
        let update = (b.update_ended() && !flags.update_ended() && !self.stopped)
            .then(|| now.clock.saturating_add(to_update));
        let alarm = (b.alarm() && !flags.alarm() && !self.stopped)
            .then(|| self.daily_alarm().next(self.second))
            .flatten()
            .map(|ahead| {
                let whole = (ahead as Nanos - 1).saturating_mul(SECOND as Nanos);
                let wait = whole.saturating_add(to_update).min(LOOK_AGAIN);
                now.clock.saturating_add(wait)
            });
        [periodic, update, alarm].into_iter().flatten().min()
    }

    /// The alarm registers; the upper two bits set mean "every" (MC146818A, Alarm).
    fn daily_alarm(&self) -> DailyAlarm {
        let format = Format(self.b());
        let field = |cell: u8| Some(self.ram[usize::from(cell)]).filter(|v| v & 0xc0 != 0xc0);
        DailyAlarm {
            hour: field(index::HOURS_ALARM).map(|v| format.decode_hour(v)),
            minute: field(index::MINUTES_ALARM).map(|v| format.decode(v)),
            second: field(index::SECONDS_ALARM).map(|v| format.decode(v)),
        }
    }

    fn time_register(&self, cell: u8, seconds: i64) -> u8 {
        let (date, format) = (Date::from_seconds(seconds), Format(self.b()));
        match cell {
            index::SECONDS => format.encode(date.second),
            index::MINUTES => format.encode(date.minute),
            index::HOURS => format.encode_hour(date.hour),
            index::WEEKDAY => format.encode(date.weekday),
            index::DAY => format.encode(date.day),
            index::MONTH => format.encode(date.month),
            index::YEAR => format.encode(date.year.rem_euclid(100) as u8),
            _ => format.encode(date.year.div_euclid(100).rem_euclid(100) as u8),
        }
    }

    fn store_time(&mut self, now: Now) {
        let seconds = self.seconds(now);
        for cell in TIME_REGISTERS {
            self.ram[usize::from(cell)] = self.time_register(cell, seconds);
        }
    }

    /// Makes the time what the registers say, `phase` nanoseconds into the second.
    fn load_time(&mut self, phase: i128, now: Now) {
        let format = Format(self.b());
        let get = |cell: u8| format.decode(self.ram[usize::from(cell)]);
        let date = Date {
            year: i64::from(get(index::CENTURY)) * 100 + i64::from(get(index::YEAR)),
            month: get(index::MONTH),
            day: get(index::DAY),
            weekday: 0,
            hour: format.decode_hour(self.ram[usize::from(index::HOURS)]),
            minute: get(index::MINUTES),
            second: get(index::SECONDS),
        };
        let seconds = date.seconds();
        self.ahead = i128::from(seconds) * SECOND + phase - now.wall;
        self.second = seconds;
    }

    fn write_time(&mut self, cell: u8, value: u8, now: Now) {
        if self.stopped {
            self.ram[usize::from(cell)] = value;
            return;
        }
        let phase = self.phase(now);
        self.store_time(now);
        self.ram[usize::from(cell)] = value;
        self.load_time(phase, now);
    }

    /// Registers A and B: time stops while SET is on or the divider is held in reset.
    fn write_control(&mut self, cell: u8, value: u8, now: Now) {
        let (old, was_stopped, ran) = (self.ram[usize::from(cell)], self.stopped, self.a().runs());
        let stops = {
            let (a, b) = match cell {
                index::A => (RegisterA(value), self.b()),
                _ => (self.a(), RegisterB(value)),
            };
            b.set() || !a.runs()
        };
        if stops && !was_stopped {
            self.store_time(now);
        }
        self.ram[usize::from(cell)] = value;
        self.stopped = stops;
        if !ran && self.a().runs() {
            // The chain starts over; with SET still on, the phase is kept for later.
            self.ahead += AFTER_DIVIDER_RESET - self.phase(now);
        }
        if was_stopped && !stops {
            self.load_time(self.phase(now), now);
        }
        if cell == index::A && old & 0x7f != value {
            self.period = self.periods(now).unwrap_or_default();
        }
    }
}

impl BytePorts for Rtc {
    fn read_port(&self, port: u16) -> u8 {
        let bank = usize::from(port >> 1 & 1);
        // The index ports are for writing (ICH9 §13.6.1).
        if port & 1 == 0 {
            return FLOATING;
        }
        let cell = self.lock().index[bank];
        match bank {
            0 => self.read_cell(cell),
            _ => self.lock().ram[usize::from(cell | 0x80)],
        }
    }

    fn write_port(&self, port: u16, value: u8) {
        let bank = usize::from(port >> 1 & 1);
        if port & 1 == 0 {
            let mut inner = self.lock();
            inner.index[bank] = value & 0x7f;
            if bank == 0 {
                inner.nmi_masked = value & 0x80 != 0;
            }
            return;
        }
        let cell = self.lock().index[bank];
        match bank {
            0 => self.write_cell(cell, value),
            _ => self.lock().ram[usize::from(cell | 0x80)] = value,
        }
    }
}

impl Alarmed for Rtc {
    fn expired(&self, _: Nanos) {
        self.change(|_, _| ());
    }
}
