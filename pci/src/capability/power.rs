//! Power management: D0 and D3hot (PCIe 6.0 §5.3, §7.5.2). No PME, no D1 or D2.

use super::{Dword, Effect};
use crate::registers::PowerControl;
use crate::space::Image;
use crate::{ConfigWrite, Register};

/// Offset of PMCSR in the capability.
const CONTROL: u16 = 4;
/// D3hot in PowerState; the two between it and D0 are not supported.
const D3_HOT: u8 = 3;

/// The power management capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PowerManagement {
    /// From D3hot the function comes back to D0 as it was. Otherwise it comes back reset,
    /// and the write says [`crate::Changes::FUNCTION_RESET`].
    pub no_soft_reset: bool,
}

/// What a function may do. In D3hot it answers config cycles and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub enum PowerState {
    /// Working.
    D0,
    /// Asleep, with power.
    D3Hot,
}

impl PowerManagement {
    pub(super) fn dwords(self) -> Vec<Dword> {
        // Version 3, and nothing optional (§7.5.2.1).
        let capabilities = Dword::fixed(3 << 16);
        let mut control = PowerControl(0);
        control.set_no_soft_reset(self.no_soft_reset);
        vec![capabilities, Dword::new(u32::from(control.0), 0b11, 0)]
    }
}

fn control(image: &Image, at: u16) -> PowerControl {
    PowerControl(image.get_u16(at + CONTROL))
}

pub(super) fn state(image: &Image, at: u16) -> PowerState {
    match control(image, at).power_state() {
        D3_HOT => PowerState::D3Hot,
        _ => PowerState::D0,
    }
}

/// A state that is not supported is ignored: the write completes and nothing changes. A
/// way back from D3hot without No_Soft_Reset is a reset (§5.3.1.4.1).
pub(super) fn settle(image: &mut Image, at: u16, write: ConfigWrite, old: u32) -> Effect {
    if write.register() != Register::containing(at + CONTROL) {
        return Effect::Plain;
    }
    let old = PowerControl(old as u16);
    let mut new = control(image, at);
    if !matches!(new.power_state(), 0 | D3_HOT) {
        new.set_power_state(old.power_state());
        image.put_u16(at + CONTROL, new.0);
    }
    let woken = old.power_state() == D3_HOT && new.power_state() == 0;
    if woken && !new.no_soft_reset() {
        return Effect::FunctionReset;
    }
    Effect::Plain
}
