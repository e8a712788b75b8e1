//! ICH9 §13.8: the power management registers from PMBASE on.

use bitfield::bitfield;

/// Offsets from PMBASE.
pub mod offset {
    /// PM1_STS, word.
    pub const PM1_STATUS: u8 = 0x00;
    /// PM1_EN, word.
    pub const PM1_ENABLE: u8 = 0x02;
    /// PM1_CNT, dword.
    pub const PM1_CONTROL: u8 = 0x04;
    /// PM1_TMR, dword.
    pub const TIMER: u8 = 0x08;
    /// GPE0_STS, two dwords.
    pub const GPE0_STATUS: u8 = 0x20;
    /// GPE0_EN, two dwords.
    pub const GPE0_ENABLE: u8 = 0x28;
    /// SMI_EN, dword.
    pub const SMI_ENABLE: u8 = 0x30;
    /// SMI_STS, dword.
    pub const SMI_STATUS: u8 = 0x34;
}

bitfield! {
    /// PM1_STS (§13.8.3.1): written ones clear. PM1_EN has its enables in the same places.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct Pm1Status(pub u16);
    impl Debug;
    /// The timer's highest bit changed.
    pub timer, set_timer: 0;
    /// Firmware released the global lock.
    pub global, set_global: 5;
    /// The power button was pressed.
    pub power_button, set_power_button: 8;
    /// The RTC's alarm.
    pub rtc, set_rtc: 10;
    /// The button was held for four seconds.
    pub power_button_override, _: 11;
    /// The system woke.
    pub wake, _: 15;
}

impl Pm1Status {
    /// Bits of PM1_EN: timer, global, button, RTC, and PCI Express wake disable.
    pub const ENABLES: u16 = 0x4521;
    /// Those that raise an SCI.
    pub const EVENTS: u16 = 0x0521;
}

bitfield! {
    /// PM1_CNT (§13.8.3.3).
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct Pm1Control(pub u32);
    impl Debug;
    /// Events raise SCIs, not SMIs.
    pub sci_enable, set_sci_enable: 0;
    /// Writing 1 tells firmware that the global lock is released.
    pub global_release, _: 2;
    /// Which sleep state.
    pub u8, sleep_type, _: 12, 10;
    /// Writing 1 goes to sleep.
    pub sleep, _: 13;
}

impl Pm1Control {
    /// Bits that are stored: SCI_EN, BM_RLD, SLP_TYP.
    pub const WRITABLE: u32 = 0x1c03;
}

/// SMI_EN bit 5, APMC_EN: writes to port 0xB2 raise SMIs. Reads as one and cannot be
/// cleared, which tells firmware that SMM was set up by someone else and is none of its
/// business.
pub const SMI_APMC: u32 = 1 << 5;
