//! Errors that a root port finds by itself and reports to itself, as the root of its
//! hierarchy (PCIe 6.0 §6.2.4, §6.2.6).

use crate::capability::{aer_offset, express_offset};
use crate::registers::{
    DeviceControl, DeviceStatus, RootErrorCommand, RootErrorStatus, UncorrectableErrors,
};
use crate::{Bdf, ConfigSpace};

/// A root port's error registers.
pub(super) struct ErrorRegisters<'a> {
    pub space: &'a mut ConfigSpace,
    /// Where the Advanced Error Reporting capability is.
    pub aer: u16,
    /// Where the PCI Express capability is.
    pub express: u16,
}

impl ErrorRegisters<'_> {
    /// Logs errors of the port, which is at `port`, and reports those that are not masked.
    pub fn report(&mut self, errors: UncorrectableErrors, port: Bdf) {
        let logged = self.get(aer_offset::UNCORRECTABLE_STATUS) | errors.0;
        self.put(aer_offset::UNCORRECTABLE_STATUS, logged);
        let unmasked = errors.0 & !self.get(aer_offset::UNCORRECTABLE_MASK);
        if unmasked == 0 {
            return;
        }
        let is_fatal = unmasked & self.get(aer_offset::UNCORRECTABLE_SEVERITY) != 0;
        self.detect(is_fatal);
        if self.may_report(is_fatal) {
            self.receive(is_fatal, port);
        }
    }

    /// An enabled error waits to be seen to (§6.2.4.1.2).
    pub fn interrupts(&self) -> bool {
        let command = RootErrorCommand(self.get(aer_offset::ROOT_COMMAND));
        let status = RootErrorStatus(self.get(aer_offset::ROOT_STATUS));
        command.correctable() && status.correctable()
            || command.non_fatal() && status.non_fatal()
            || command.fatal() && status.fatal()
    }

    /// Device Status (§7.5.3.5).
    fn detect(&mut self, is_fatal: bool) {
        let at = self.express + express_offset::DEVICE_STATUS;
        let mut status = DeviceStatus(self.space.get_u16(at));
        if is_fatal {
            status.set_fatal_error(true);
        } else {
            status.set_non_fatal_error(true);
        }
        self.space.put_u16(at, status.0);
    }

    fn may_report(&self, is_fatal: bool) -> bool {
        let at = self.express + express_offset::DEVICE_CONTROL;
        let control = DeviceControl(self.space.get_u16(at));
        let enabled = if is_fatal {
            control.fatal_reporting()
        } else {
            control.non_fatal_reporting()
        };
        enabled || self.space.command().serr()
    }

    /// What an error message does at the root (§7.8.4.10, §7.8.4.11).
    fn receive(&mut self, is_fatal: bool, source: Bdf) {
        let mut status = RootErrorStatus(self.get(aer_offset::ROOT_STATUS));
        if status.uncorrectable() {
            status.set_multiple_uncorrectable(true);
        } else {
            status.set_uncorrectable(true);
            status.set_first_fatal(is_fatal);
            let correctable = self.get(aer_offset::ERROR_SOURCE) & 0xffff;
            let source = u32::from(source.requester_id()) << 16;
            self.put(aer_offset::ERROR_SOURCE, source | correctable);
        }
        if is_fatal {
            status.set_fatal(true);
        } else {
            status.set_non_fatal(true);
        }
        self.put(aer_offset::ROOT_STATUS, status.0);
    }

    fn get(&self, offset: u16) -> u32 {
        self.space.get_u32(self.aer + offset)
    }

    fn put(&mut self, offset: u16, value: u32) {
        self.space.put_u32(self.aer + offset, value);
    }
}
