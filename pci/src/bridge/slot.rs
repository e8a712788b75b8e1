//! The slot of a port whose device comes and goes while the machine runs (PCIe 6.0 §6.7): an
//! attention button, a power controller, two indicators, presence and the link's state. There
//! is no MRL sensor and no interlock, and commands complete as they are given.
//!
//! What happens is shown in the registers of the port, which interrupts for it.

use crate::capability::{Link, express_offset as offset};
use crate::registers::{LinkStatus, SlotControl, SlotStatus};
use crate::{ConfigSpace, ConfigWrite, Register};

/// A hot-plug slot's registers, in the config space of its port.
pub(super) struct SlotRegisters<'a> {
    pub space: &'a mut ConfigSpace,
    /// Where the PCI Express capability is.
    pub express: u16,
    /// The link, when it is up.
    pub link: Link,
}

impl SlotRegisters<'_> {
    pub fn control(&self) -> SlotControl {
        SlotControl(self.space.get_u16(self.express + offset::SLOT_CONTROL))
    }

    pub fn status(&self) -> SlotStatus {
        SlotStatus(self.space.get_u16(self.express + offset::SLOT_STATUS))
    }

    pub fn is_link_up(&self) -> bool {
        LinkStatus(self.space.get_u16(self.express + offset::LINK_STATUS)).active()
    }

    /// An enabled event waits to be seen to (§6.7.3.4).
    pub fn interrupts(&self) -> bool {
        let (control, status) = (self.control(), self.status());
        let event = status.attention_pressed() && control.attention_pressed_enable()
            || status.presence_changed() && control.presence_changed_enable()
            || status.command_completed() && control.command_completed_enable()
            || status.link_changed() && control.link_changed_enable();
        event && control.hot_plug_interrupt()
    }

    /// As at power-on, with or without something in the slot; a change of that is no event.
    pub fn reset(&mut self, occupied: bool) {
        let (on, off) = (1, 3);
        let mut control = SlotControl(0);
        control.set_power_off(!occupied);
        control.set_attention_indicator(off);
        control.set_power_indicator(if occupied { on } else { off });
        self.space
            .put_u16(self.express + offset::SLOT_CONTROL, control.0);
        self.show_presence(occupied);
        self.show_link(occupied);
        self.clear_events();
    }

    fn clear_events(&mut self) {
        let mut status = SlotStatus(0);
        status.set_presence(self.status().presence());
        self.put_status(status);
    }

    /// After a write of the guest's: one to Slot Control is a command, which is done at once.
    pub fn settle(&mut self, write: ConfigWrite) {
        let register = Register::containing(self.express + offset::SLOT_CONTROL);
        if write.register() != register || write.mask() & 0xffff == 0 {
            return;
        }
        let mut status = self.status();
        status.set_command_completed(true);
        self.put_status(status);
        self.settle_link();
    }

    /// Something came, or went.
    pub fn set_occupied(&mut self, occupied: bool) {
        if self.status().presence() == occupied {
            return;
        }
        self.show_presence(occupied);
        let mut status = self.status();
        status.set_presence_changed(true);
        self.put_status(status);
        self.settle_link();
    }

    pub fn press_attention(&mut self) {
        let mut status = self.status();
        status.set_attention_pressed(true);
        self.put_status(status);
    }

    /// The link is up while there is something in the slot that has power.
    fn settle_link(&mut self) {
        let up = self.status().presence() && !self.control().power_off();
        if up == self.is_link_up() {
            return;
        }
        self.show_link(up);
        let mut status = self.status();
        status.set_link_changed(true);
        self.put_status(status);
    }

    fn show_presence(&mut self, occupied: bool) {
        let mut status = self.status();
        status.set_presence(occupied);
        self.put_status(status);
    }

    fn show_link(&mut self, up: bool) {
        let status = if up { self.link.up() } else { LinkStatus(0) };
        self.space
            .put_u16(self.express + offset::LINK_STATUS, status.0);
    }

    fn put_status(&mut self, status: SlotStatus) {
        self.space
            .put_u16(self.express + offset::SLOT_STATUS, status.0);
    }
}
