//! RST_CNT, the reset control register at port 0xCF9 (ICH9 §13.7.5).
//!
//! The port lies among those of CONFIG_ADDRESS (0xCF8): a byte access to it is this
//! register's, a dword access to 0xCF8 is not.
//!
//! Reset: zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bitfield::bitfield;

use super::ports::{BytePorts, PortRange};
use super::power::PowerControl;
use crate::bus::Region;

/// Where it is.
pub const PORT: u16 = 0xcf9;

bitfield! {
    /// RST_CNT.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct ResetControlRegister(u8);
    impl Debug;
    /// Hard, not soft; either way the machine resets.
    system_reset, _: 1;
    /// Going from 0 to 1 resets.
    reset_cpu, _: 2;
    /// With a power cycle; does not make a difference.
    full_reset, _: 3;
}

const WRITABLE: u8 = 0x0e;

/// The register.
pub struct ResetControl {
    power: Arc<dyn PowerControl>,
    value: AtomicU8,
}

impl ResetControl {
    /// The register, zero.
    pub fn new(power: Arc<dyn PowerControl>) -> Self {
        Self {
            power,
            value: AtomicU8::new(0),
        }
    }

    /// The register at [`PORT`], one byte; the owner of the config ports around it passes
    /// on what is for it.
    pub fn region(self: &Arc<Self>) -> Arc<dyn Region> {
        PortRange::new(self.clone(), PORT, 1).region
    }

    /// To zero.
    pub fn reset(&self) {
        self.value.store(0, Ordering::Relaxed);
    }

    /// What it holds.
    pub fn state(&self) -> u8 {
        self.value.load(Ordering::Relaxed)
    }
}

impl BytePorts for ResetControl {
    fn read_port(&self, _: u16) -> u8 {
        self.state()
    }

    fn write_port(&self, _: u16, value: u8) {
        let old = self.value.swap(value & WRITABLE, Ordering::Relaxed);
        if ResetControlRegister(value).reset_cpu() && !ResetControlRegister(old).reset_cpu() {
            self.power.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::fakes::FakePower;

    #[test]
    fn resets_when_bit_2_rises() {
        let power = Arc::new(FakePower::default());
        let control = ResetControl::new(power.clone());
        control.write_port(PORT, 0x02);
        assert_eq!((control.read_port(PORT), power.resets()), (0x02, 0));
        control.write_port(PORT, 0x06);
        control.write_port(PORT, 0x0e);
        assert_eq!((control.read_port(PORT), power.resets()), (0x0e, 1));
        control.reset();
        control.write_port(PORT, 0xff);
        assert_eq!((control.read_port(PORT), power.resets()), (0x0e, 2));
    }
}
