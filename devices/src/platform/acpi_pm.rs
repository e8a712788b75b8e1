//! The ACPI power management block of ICH9 (§13.8): PM1 events and control, the PM timer,
//! GPE0, and the APM ports 0xB2 and 0xB3.
//!
//! There is no system management mode, so ACPI is always on: SCI_EN is set after reset, and
//! an FADT should give SMI_CMD as 0. Firmware that insists may still write
//! [`ACPI_ENABLE`] and [`ACPI_DISABLE`] to port 0xB2; SMIs are never raised.
//!
//! Sleep types are those of ICH9: S5 and S4 turn the machine off, others are ignored (do
//! not offer them). The TCO watchdog (PMBASE + 0x60) is not there: it reads as zero.
//!
//! Reset: everything to power-on values. The PM timer goes on, as its value means nothing.

mod registers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::registers::{Pm1Control, Pm1Status, SMI_APMC, offset};
use super::ports::{BytePorts, FLOATING, PortRange};
use super::power::PowerControl;
use crate::bus::Region;
use crate::guest_error;
use crate::irq::IrqLine;
use crate::time::{Alarm, Alarmed, Clock, Nanos};

/// How many ports there are from PMBASE on.
pub const LEN: u16 = 128;

/// The IRQ of the SCI, which is level triggered.
pub const SCI_IRQ: u8 = 9;

/// Offsets from PMBASE and lengths of the blocks, for the FADT.
pub mod block {
    /// PM1a event block.
    pub const PM1_EVENT: (u8, u8) = (0x00, 4);
    /// PM1a control block.
    pub const PM1_CONTROL: (u8, u8) = (0x04, 2);
    /// PM timer: 24 bits, so no TMR_VAL_EXT.
    pub const TIMER: (u8, u8) = (0x08, 4);
    /// GPE0: eight bytes of status, eight of enables.
    pub const GPE0: (u8, u8) = (0x20, 16);
}

/// SLP_TYP for suspend to disk.
pub const SLEEP_TYPE_S4: u8 = 6;
/// SLP_TYP for soft off: what `_S5` holds.
pub const SLEEP_TYPE_S5: u8 = 7;

/// Written to port 0xB2: use SCIs.
pub const ACPI_ENABLE: u8 = 0x02;
/// Written to port 0xB2: use no SCIs.
pub const ACPI_DISABLE: u8 = 0x03;

const APM_CONTROL: u16 = 0xb2;
const APM_STATUS: u16 = 0xb3;

/// Frequency of the PM timer (ACPI 6.5 §4.8.2.1).
const TIMER_HZ: u128 = 3_579_545;
/// Ticks between two changes of bit 23.
const TIMER_HALF: u128 = 1 << 23;
const TIMER_MASK: u128 = (1 << 24) - 1;

/// What the block is made of.
pub struct AcpiPmConfig {
    /// The SCI: IRQ [`SCI_IRQ`].
    pub sci: IrqLine,
    /// Whom the guest turns off.
    pub power: Arc<dyn PowerControl>,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
    /// Its alarm; set only while the timer's interrupt is enabled.
    pub alarm: Arc<dyn Alarm>,
}

/// The block.
pub struct AcpiPm {
    config: AcpiPmConfig,
    inner: Mutex<AcpiPmState>,
}

/// What the block is like now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AcpiPmState {
    /// PM1_STS.
    pub pm1_status: u16,
    /// PM1_EN.
    pub pm1_enable: u16,
    /// PM1_CNT.
    pub pm1_control: u32,
    /// GPE0_STS.
    pub gpe0_status: u64,
    /// GPE0_EN.
    pub gpe0_enable: u64,
    /// SMI_EN.
    pub smi_enable: u32,
    /// Ports 0xB2 and 0xB3.
    pub apm: [u8; 2],
    /// How often bit 23 of the timer had changed when that was last looked at.
    pub timer_halves: u64,
    /// The SCI is asserted.
    pub sci: bool,
}

impl AcpiPmState {
    fn new(timer_halves: u64) -> Self {
        let mut control = Pm1Control(0);
        control.set_sci_enable(true);
        Self {
            pm1_status: 0,
            pm1_enable: 0,
            pm1_control: control.0,
            gpe0_status: 0,
            gpe0_enable: 0,
            smi_enable: SMI_APMC,
            apm: [0; 2],
            timer_halves,
            sci: false,
        }
    }

    fn sci_is_due(&self) -> bool {
        let events = self.pm1_status & self.pm1_enable & Pm1Status::EVENTS != 0
            || self.gpe0_status & self.gpe0_enable != 0;
        events && Pm1Control(self.pm1_control).sci_enable()
    }

    /// TMROF_STS is set whenever the timer's highest bit changes (ACPI 6.5 §4.8.3.1.1).
    fn settle(&mut self, now: Nanos) {
        let halves = (ticks(now) / TIMER_HALF) as u64;
        if halves != self.timer_halves {
            self.timer_halves = halves;
            self.set_status(|status| status.set_timer(true));
        }
    }

    fn set_status(&mut self, change: impl FnOnce(&mut Pm1Status)) {
        let mut status = Pm1Status(self.pm1_status);
        change(&mut status);
        self.pm1_status = status.0;
    }

    fn read_byte(&self, at: u8, now: Nanos) -> u8 {
        let byte_of = |value: u64, first: u8| (value >> (8 * u32::from(at - first))) as u8;
        match at {
            0x00..=0x01 => byte_of(self.pm1_status.into(), offset::PM1_STATUS),
            0x02..=0x03 => byte_of(self.pm1_enable.into(), offset::PM1_ENABLE),
            0x04..=0x07 => byte_of(self.pm1_control.into(), offset::PM1_CONTROL),
            0x08..=0x0b => byte_of((ticks(now) & TIMER_MASK) as u64, offset::TIMER),
            0x20..=0x27 => byte_of(self.gpe0_status, offset::GPE0_STATUS),
            0x28..=0x2f => byte_of(self.gpe0_enable, offset::GPE0_ENABLE),
            0x30..=0x33 => byte_of(self.smi_enable.into(), offset::SMI_ENABLE),
            0x34..=0x37 => byte_of(0, offset::SMI_STATUS),
            _ => 0,
        }
    }

    fn write_byte(&mut self, at: u8, value: u8) {
        match at {
            0x00..=0x01 => self.pm1_status &= !(u16::from(value) << (8 * at)),
            0x02..=0x03 => {
                let enables = replace(self.pm1_enable.into(), at - offset::PM1_ENABLE, value);
                self.pm1_enable = enables as u16 & Pm1Status::ENABLES;
            }
            0x04..=0x07 => {
                let control = replace(self.pm1_control.into(), at - offset::PM1_CONTROL, value);
                self.pm1_control = control as u32 & Pm1Control::WRITABLE;
            }
            0x20..=0x27 => {
                let shift = 8 * u32::from(at - offset::GPE0_STATUS);
                self.gpe0_status &= !(u64::from(value) << shift);
            }
            0x28..=0x2f => {
                self.gpe0_enable = replace(self.gpe0_enable, at - offset::GPE0_ENABLE, value);
            }
            0x30..=0x33 => {
                let enables = replace(self.smi_enable.into(), at - offset::SMI_ENABLE, value);
                self.smi_enable = enables as u32 | SMI_APMC;
            }
            _ => {}
        }
    }
}

/// The register byte `i` bytes after `offset`; the block repeats.
fn within(offset: u64, i: u64) -> u8 {
    offset.wrapping_add(i) as u8 & 0x7f
}

/// `old` with one byte replaced.
fn replace(old: u64, byte: u8, value: u8) -> u64 {
    let shift = 8 * u32::from(byte);
    old & !(0xff << shift) | u64::from(value) << shift
}

fn ticks(now: Nanos) -> u128 {
    u128::from(now) * TIMER_HZ / 1_000_000_000
}

impl AcpiPm {
    /// The block as after power-on.
    pub fn new(config: AcpiPmConfig) -> Self {
        let halves = (ticks(config.clock.now()) / TIMER_HALF) as u64;
        Self {
            config,
            inner: Mutex::new(AcpiPmState::new(halves)),
        }
    }

    /// The ports that do not move. The block itself ([`Region`]) goes to PMBASE, which the
    /// LPC bridge decodes.
    pub fn ports(self: &Arc<Self>) -> Vec<PortRange> {
        vec![PortRange::new(self.clone(), APM_CONTROL, 2)]
    }

    /// Someone presses the power button, shortly.
    pub fn press_power_button(&self) {
        self.change(|state, _| state.set_status(|status| status.set_power_button(true)));
    }

    /// A general-purpose event, 0 to 63, happens.
    pub fn raise_gpe(&self, event: u8) {
        self.change(|state, _| state.gpe0_status |= 1_u64.checked_shl(event.into()).unwrap_or(0));
    }

    /// Power-on values.
    pub fn reset(&self) {
        self.change(|state, _| {
            *state = AcpiPmState {
                sci: state.sci,
                ..AcpiPmState::new(state.timer_halves)
            };
        });
    }

    /// Its state.
    pub fn state(&self) -> AcpiPmState {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, AcpiPmState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles the timer, does something, and lets the SCI and the alarm follow.
    fn change<T>(&self, action: impl FnOnce(&mut AcpiPmState, Nanos) -> T) -> T {
        let mut state = self.lock();
        let now = self.config.clock.now();
        state.settle(now);
        let had_alarm = wants_alarm(&state);
        let result = action(&mut state, now);
        let sci = state.sci_is_due();
        if state.sci != sci {
            state.sci = sci;
            self.config.sci.set(sci);
        }
        let wants = wants_alarm(&state);
        if wants || had_alarm {
            let next = (u128::from(state.timer_halves) + 1) * TIMER_HALF;
            let at = (next * 1_000_000_000).div_ceil(TIMER_HZ) as Nanos;
            self.config.alarm.set(wants.then_some(at));
        }
        result
    }

    /// PM1_CNT as the guest wrote it, whose write-only bits act now.
    fn control_written(&self, written: Pm1Control) {
        if !written.sleep() {
            return;
        }
        match written.sleep_type() {
            SLEEP_TYPE_S4 | SLEEP_TYPE_S5 => self.config.power.power_off(),
            other => guest_error!(other, "sleep type is not one that the machine has"),
        }
    }
}

/// The timer's interrupt is enabled and not pending.
fn wants_alarm(state: &AcpiPmState) -> bool {
    Pm1Status(state.pm1_enable).timer() && !Pm1Status(state.pm1_status).timer()
}

impl Region for AcpiPm {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // The timer is read far more often than all else, and changes nothing.
        if offset == u64::from(offset::TIMER) && data.len() == 4 {
            let value = (ticks(self.config.clock.now()) & TIMER_MASK) as u32;
            data.copy_from_slice(&value.to_le_bytes());
            return;
        }
        self.change(|state, now| {
            for (i, byte) in (0..).zip(data.iter_mut()) {
                *byte = state.read_byte(within(offset, i), now);
            }
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let written = self.change(|state, _| {
            let mut written = 0;
            for (i, value) in (0..).zip(data) {
                let at = within(offset, i);
                state.write_byte(at, *value);
                if let 0x04..=0x07 = at {
                    written = replace(written, at - offset::PM1_CONTROL, *value);
                }
            }
            // SLP_EN in a byte write goes with the SLP_TYP of the same byte.
            written
        });
        self.control_written(Pm1Control(written as u32));
    }
}

impl BytePorts for AcpiPm {
    fn read_port(&self, port: u16) -> u8 {
        match port {
            APM_CONTROL => self.lock().apm[0],
            APM_STATUS => self.lock().apm[1],
            _ => FLOATING,
        }
    }

    fn write_port(&self, port: u16, value: u8) {
        self.change(|state, _| match port {
            APM_CONTROL => {
                state.apm[0] = value;
                let mut control = Pm1Control(state.pm1_control);
                match value {
                    ACPI_ENABLE => control.set_sci_enable(true),
                    ACPI_DISABLE => control.set_sci_enable(false),
                    _ => {}
                }
                state.pm1_control = control.0;
            }
            APM_STATUS => state.apm[1] = value,
            _ => {}
        });
    }
}

impl Alarmed for AcpiPm {
    fn expired(&self, _: Nanos) {
        self.change(|_, _| ());
    }
}
