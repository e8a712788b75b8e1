//! The register page: what reads give, and which writes do what.

use super::Vtd;
use super::config::VtdConfig;
use super::event::Event;
use super::faults::{Faults, RECORDS};
use super::protected::Protected;
use super::registers::{
    ContextCommand, Global, InterruptTable, InvalidateAddress, IotlbInvalidate, ProtectedEnable,
    QueueAddress, QueueErrorRecord, QueuePointer, RootTable, offset,
};

/// The registers that are not constant.
pub(super) struct Registers {
    pub status: Global,
    pub root: RootTable,
    pub context_command: ContextCommand,
    pub faults: Faults,
    pub protect: ProtectedEnable,
    pub protected_low: (u32, u32),
    pub protected_high: (u64, u64),
    pub queue_head: QueuePointer,
    pub queue_tail: QueuePointer,
    pub queue: QueueAddress,
    /// ICS.IWC.
    pub wait_complete: bool,
    pub completion: Event,
    pub queue_error: QueueErrorRecord,
    pub interrupts: InterruptTable,
    pub invalidate_address: InvalidateAddress,
    pub iotlb: IotlbInvalidate,
}

impl Registers {
    pub fn new() -> Self {
        Self {
            status: Global::default(),
            root: RootTable::default(),
            context_command: ContextCommand::default(),
            faults: Faults::new(),
            protect: ProtectedEnable::default(),
            protected_low: (0, 0),
            protected_high: (0, 0),
            queue_head: QueuePointer::default(),
            queue_tail: QueuePointer::default(),
            queue: QueueAddress::default(),
            wait_complete: false,
            completion: Event::RESET,
            queue_error: QueueErrorRecord::default(),
            interrupts: InterruptTable::default(),
            invalidate_address: InvalidateAddress::default(),
            iotlb: IotlbInvalidate::default(),
        }
    }

    /// The eight bytes at `offset`, a multiple of eight.
    pub fn read(&self, offset: u64, config: &VtdConfig) -> u64 {
        match offset {
            offset::VER => config.version().into(),
            offset::CAP => config.capability().0,
            offset::ECAP => config.extended_capability().0,
            // GCMD reads as zero.
            offset::GCMD => pair(0, self.status.0),
            offset::RTADDR => self.root.0,
            offset::CCMD => self.context_command.0,
            0x30 => pair(0, self.faults.status.0),
            offset::FECTL => pair(self.faults.event.control.0, self.faults.event.data),
            offset::FEADDR => pair(self.faults.event.address, self.faults.event.upper_address),
            0x60 => pair(0, self.protect.0),
            offset::PLMBASE => pair(self.protected_low.0, self.protected_low.1),
            offset::PHMBASE => self.protected_high.0,
            offset::PHMLIMIT => self.protected_high.1,
            offset::IQH => self.queue_head.0,
            offset::IQT => self.queue_tail.0,
            offset::IQA => self.queue.0,
            0x98 => pair(0, self.wait_complete.into()),
            offset::IECTL => pair(self.completion.control.0, self.completion.data),
            offset::IEADDR => pair(self.completion.address, self.completion.upper_address),
            offset::IQERCD => self.queue_error.0,
            offset::IRTA => self.interrupts.0,
            offset::IVA => self.invalidate_address.0,
            offset::IOTLB => self.iotlb.0,
            _ => match fault_record(offset) {
                Some((index, half)) => (self.faults.read_record(index).0 >> (64 * half)) as u64,
                None => 0,
            },
        }
    }
}

/// A write of four or eight bytes, as bits of the eight bytes they are in.
#[derive(Clone, Copy)]
struct Write {
    value: u64,
    mask: u64,
}

impl Write {
    /// `old` with the written bits that are in `writable`.
    fn merge(self, old: u64, writable: u64) -> u64 {
        let mask = self.mask & writable;
        old & !mask | self.value & mask
    }

    /// What a 32-bit register in the lower half is written with.
    fn low(self) -> Option<u32> {
        (self.mask as u32 != 0).then_some(self.value as u32)
    }

    /// What a 32-bit register in the upper half is written with.
    fn high(self) -> Option<u32> {
        (self.mask >> 32 != 0).then_some((self.value >> 32) as u32)
    }
}

impl Vtd {
    /// Reads `len` bytes at `offset` of the register page. An access that is not within eight
    /// aligned bytes reads as zero.
    pub fn read(&self, offset: u64, len: usize) -> u64 {
        let at = offset & 7;
        if !(1..=8).contains(&len) || at + len as u64 > 8 {
            return 0;
        }
        let value = self.registers().read(offset & !7, &self.config) >> (8 * at);
        value & (u64::MAX >> (64 - 8 * len))
    }

    /// Writes `len` bytes at `offset` of the register page. Software must write aligned
    /// dwords and quadwords (VT-d 4.1 §11.2); anything else is ignored.
    pub fn write(&self, offset: u64, len: usize, value: u64) {
        let at = offset & 7;
        let mask = match len {
            4 if at & 3 == 0 => 0xffff_ffff << (8 * at),
            8 if at == 0 => u64::MAX,
            _ => {
                tracing::debug!(offset, len, "VT-d register write ignored");
                return;
            }
        };
        let write = Write {
            value: value.wrapping_shl(8 * at as u32) & mask,
            mask,
        };
        self.write_registers(offset & !7, write);
    }

    fn write_registers(&self, offset: u64, write: Write) {
        match offset {
            offset::GCMD => {
                if let Some(command) = write.low() {
                    self.command(Global(command));
                }
            }
            offset::CCMD => self.write_context_command(write),
            offset::IOTLB => self.write_iotlb(write),
            offset::IQT => self.write_queue_tail(write),
            0x30 => {
                if let Some(status) = write.high() {
                    self.write_fault_status(status);
                }
            }
            0x60 | offset::PLMBASE | offset::PHMBASE | offset::PHMLIMIT => {
                self.write_protected(offset, write);
            }
            offset::FECTL | offset::FEADDR => {
                self.with_registers(|regs, eim| {
                    write_event(&mut regs.faults.event, offset == offset::FECTL, write, eim)
                });
            }
            offset::IECTL | offset::IEADDR => {
                self.with_registers(|regs, eim| {
                    write_event(&mut regs.completion, offset == offset::IECTL, write, eim)
                });
            }
            _ => self.write_plain(offset, write),
        }
    }

    /// Registers that do nothing when written, or only forget.
    fn write_plain(&self, offset: u64, write: Write) {
        let regs = &mut *self.registers();
        match offset {
            offset::RTADDR => regs.root.0 = write.merge(regs.root.0, RootTable::WRITABLE),
            offset::IQA => regs.queue.0 = write.merge(regs.queue.0, QueueAddress::WRITABLE),
            offset::IRTA => {
                regs.interrupts.0 = write.merge(regs.interrupts.0, InterruptTable::WRITABLE);
                if !self.config.extended_interrupts() {
                    regs.interrupts.set_extended(false);
                }
            }
            offset::IVA => {
                let old = regs.invalidate_address.0;
                regs.invalidate_address.0 = write.merge(old, InvalidateAddress::WRITABLE);
            }
            0x98 if write.high().is_some_and(|ics| ics & 1 != 0) => {
                regs.wait_complete = false;
                regs.completion.withdraw();
            }
            _ => {
                if let Some((index, 1)) = fault_record(offset) {
                    regs.faults.write_record(index, write.value);
                }
            }
        }
    }

    fn write_context_command(&self, write: Write) {
        let commands = self.commands();
        let start = {
            let regs = &mut *self.registers();
            let old = regs.context_command.0;
            regs.context_command.0 = write.merge(old, ContextCommand::WRITABLE);
            write.high().is_some() && regs.context_command.start()
        };
        if start {
            self.context_command(&commands);
        }
    }

    fn write_iotlb(&self, write: Write) {
        let commands = self.commands();
        let start = {
            let regs = &mut *self.registers();
            regs.iotlb.0 = write.merge(regs.iotlb.0, IotlbInvalidate::WRITABLE);
            write.high().is_some() && regs.iotlb.start()
        };
        if start {
            self.iotlb_command(&commands);
        }
    }

    fn write_queue_tail(&self, write: Write) {
        if write.low().is_none() {
            return;
        }
        let commands = self.commands();
        self.registers().queue_tail.0 = write.value & QueuePointer::WRITABLE;
        self.run_queue(&commands);
    }

    fn write_fault_status(&self, value: u32) {
        let goes_on = {
            let regs = &mut *self.registers();
            let goes_on = regs.faults.write_status(value);
            if goes_on {
                regs.queue_error.set_info(0);
            }
            goes_on
        };
        if goes_on {
            self.run_queue(&self.commands());
        }
    }

    fn write_protected(&self, offset: u64, write: Write) {
        const BITS: u64 = !(ProtectedEnable::GRANULE - 1);
        let commands = self.commands();
        let mut guard = self.registers();
        let regs = &mut *guard;
        match offset {
            offset::PLMBASE => {
                let (base, limit) = regs.protected_low;
                let both = write.merge(pair(base, limit), BITS << 32 | BITS & 0xffff_ffff);
                regs.protected_low = (both as u32, (both >> 32) as u32);
            }
            offset::PHMBASE => regs.protected_high.0 = write.merge(regs.protected_high.0, BITS),
            offset::PHMLIMIT => regs.protected_high.1 = write.merge(regs.protected_high.1, BITS),
            _ => {
                if let Some(value) = write.high() {
                    regs.protect.set_enable(ProtectedEnable(value).enable());
                }
            }
        }
        let protected = match regs.protect.enable() {
            true => Protected::new(regs.protected_low, regs.protected_high),
            false => Protected::default(),
        };
        drop(guard);
        self.protect(protected, &commands);
    }

    /// Changes registers, then sends the message that makes.
    fn with_registers(&self, change: impl FnOnce(&mut Registers, bool) -> Option<pci::MsiMessage>) {
        let eim = self.config.extended_interrupts();
        let message = change(&mut self.registers(), eim);
        self.send(message);
    }
}

fn write_event(
    event: &mut Event,
    control: bool,
    write: Write,
    eim: bool,
) -> Option<pci::MsiMessage> {
    if control {
        // The data first, should one write give both: the message has it.
        if let Some(data) = write.high() {
            event.write_data(data);
        }
        return write.low().and_then(|value| event.write_control(value));
    }
    if let Some(address) = write.low() {
        event.write_address(address);
    }
    if let Some(address) = write.high() {
        event.write_upper_address(address, eim);
    }
    None
}

/// Which FRCD the eight bytes at `offset` are in, and which half of it.
fn fault_record(offset: u64) -> Option<(usize, u32)> {
    let at = offset.checked_sub(offset::FRCD)?;
    let index = usize::try_from(at / 16).ok()?;
    (index < RECORDS).then_some((index, u32::from(at % 16 >= 8)))
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
