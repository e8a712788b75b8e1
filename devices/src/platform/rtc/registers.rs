//! MC146818A data sheet and ICH9 §13.6: indices and control registers.

use bitfield::bitfield;

/// Indices of the first bank.
pub mod index {
    /// Seconds; then seconds alarm, minutes, minutes alarm, hours and hours alarm.
    pub const SECONDS: u8 = 0x00;
    /// Seconds of the alarm.
    pub const SECONDS_ALARM: u8 = 0x01;
    /// Minutes.
    pub const MINUTES: u8 = 0x02;
    /// Minutes of the alarm.
    pub const MINUTES_ALARM: u8 = 0x03;
    /// Hours; bit 7 is PM in the 12-hour mode.
    pub const HOURS: u8 = 0x04;
    /// Hours of the alarm.
    pub const HOURS_ALARM: u8 = 0x05;
    /// Day of the week, Sunday is 1.
    pub const WEEKDAY: u8 = 0x06;
    /// Day of the month.
    pub const DAY: u8 = 0x07;
    /// Month.
    pub const MONTH: u8 = 0x08;
    /// Year of the century.
    pub const YEAR: u8 = 0x09;
    /// Control: rates and update in progress.
    pub const A: u8 = 0x0a;
    /// Control: interrupt enables and formats.
    pub const B: u8 = 0x0b;
    /// Interrupt flags; reading clears them.
    pub const C: u8 = 0x0c;
    /// Valid RAM and time.
    pub const D: u8 = 0x0d;
    /// Century (the FADT says so).
    pub const CENTURY: u8 = 0x32;
}

/// Cells that PC firmware keeps its knowledge in (CMOS map of the PC/AT and of SeaBIOS).
pub mod cell {
    /// Equipment.
    pub const EQUIPMENT: u8 = 0x14;
    /// KiB below 640 K.
    pub const BASE_MEMORY: u8 = 0x15;
    /// KiB from 1 MiB, at most 65535.
    pub const EXTENDED_MEMORY: u8 = 0x17;
    /// The same again, as found by the firmware.
    pub const EXTENDED_MEMORY_FOUND: u8 = 0x30;
    /// 64 KiB blocks from 16 MiB to 4 GiB.
    pub const MEMORY_ABOVE_16M: u8 = 0x34;
    /// 64 KiB blocks from 4 GiB, three bytes.
    pub const MEMORY_ABOVE_4G: u8 = 0x5b;
    /// Processors beyond the first.
    pub const MORE_PROCESSORS: u8 = 0x5f;
}

bitfield! {
    /// Register A.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct RegisterA(pub u8);
    impl Debug;
    /// Rate of the periodic interrupt; 0 is none.
    pub rate, _: 3, 0;
    /// Divider: see [`RegisterA::runs`].
    pub divider, _: 6, 4;
    /// An update is near.
    pub update_in_progress, set_update_in_progress: 7;
}

impl RegisterA {
    /// The 32768 Hz chain runs: it is not held in reset (11x). The dividers for other
    /// crystals count as running.
    pub fn runs(self) -> bool {
        self.divider() < 6
    }

    /// Period of the periodic interrupt in 1/32768 s (ICH9 §13.6.2.1). Rates 1 and 2 wrap
    /// to those of 8 and 9.
    pub fn period(self) -> Option<u64> {
        match self.rate() {
            0 => None,
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }
}

bitfield! {
    /// Register B.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct RegisterB(pub u8);
    impl Debug;
    /// Daylight saving; does nothing, as on every chip since 2007.
    pub daylight, _: 0;
    /// Hours 0 to 23.
    pub hours_24, _: 1;
    /// Binary, not BCD.
    pub binary, _: 2;
    /// Square wave; has no pin.
    pub square_wave, set_square_wave: 3;
    /// Update-ended interrupt.
    pub update_ended, set_update_ended: 4;
    /// Alarm interrupt.
    pub alarm, set_alarm: 5;
    /// Periodic interrupt.
    pub periodic, set_periodic: 6;
    /// Updates are stopped so that time can be set.
    pub set, _: 7;
}

bitfield! {
    /// Register C. Its flags lie where register B has their enables.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct RegisterC(pub u8);
    impl Debug;
    /// An update has ended.
    pub update_ended, set_update_ended: 4;
    /// The alarm has matched.
    pub alarm, set_alarm: 5;
    /// A period has passed.
    pub periodic, set_periodic: 6;
    /// A flag is set whose interrupt is enabled.
    pub interrupt, set_interrupt: 7;
}

impl RegisterC {
    /// The flags that have an enable.
    pub const FLAGS: u8 = 0x70;
}

/// Register D: RAM and time are valid.
pub const VALID: u8 = 0x80;
