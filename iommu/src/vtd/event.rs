//! The unit's own interrupts: a message that waits while it is masked (VT-d 4.1 §7.3,
//! §6.5.2.9). Masking delays it, an acknowledged condition takes it back.

use pci::MsiMessage;

use super::registers::EventControl;

/// One of the two: fault event or invalidation completion event.
#[derive(Clone, Copy)]
pub(super) struct Event {
    pub control: EventControl,
    pub data: u32,
    pub address: u32,
    pub upper_address: u32,
}

impl Event {
    pub const RESET: Self = Self {
        control: EventControl::RESET,
        data: 0,
        address: 0,
        upper_address: 0,
    };

    /// Its condition has come up.
    #[must_use]
    pub fn raise(&mut self) -> Option<MsiMessage> {
        self.control.set_pending(true);
        self.send()
    }

    /// Its condition was acknowledged.
    pub fn withdraw(&mut self) {
        self.control.set_pending(false);
    }

    /// Software writes the control register.
    #[must_use]
    pub fn write_control(&mut self, value: u32) -> Option<MsiMessage> {
        self.control.set_masked(EventControl(value).masked());
        self.send()
    }

    fn send(&mut self) -> Option<MsiMessage> {
        let due = self.control.pending() && !self.control.masked();
        due.then(|| {
            self.control.set_pending(false);
            MsiMessage {
                address: u64::from(self.upper_address) << 32 | u64::from(self.address),
                data: self.data,
            }
        })
    }

    /// Software writes the data register: 16 bits of message data.
    pub fn write_data(&mut self, value: u32) {
        self.data = value & 0xffff;
    }

    /// Software writes the address register.
    pub fn write_address(&mut self, value: u32) {
        self.address = value & !3;
    }

    /// Software writes the upper address register, which is there with EIM only.
    pub fn write_upper_address(&mut self, value: u32, eim: bool) {
        self.upper_address = if eim { value } else { 0 };
    }
}
