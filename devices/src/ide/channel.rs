//! A channel: two drives on a cable, the bus master in front of them, and at most one
//! command at a time.
//!
//! Everything here happens under the channel's lock and takes no time. What takes time is
//! left in [`Activity`] for the I/O thread ([`super::worker`]).

use crate::irq::IrqLine;

use super::cdrom::{Response, Sense};
use super::command::{Action, Direction, DmaCommand, Extent, Job, Payload, Pio, Purpose};
use super::drive::{Drive, Model, packet_error};
use super::registers::{
    BusMasterCommand, BusMasterStatus, Device, DeviceControl, ErrorBits, InterruptReason,
    command_block,
};

/// Bytes buffered between medium and data register: a multiple of every DRQ block of a disk.
pub const CHUNK: u64 = 64 << 10;

/// What the channel is at.
#[derive(Debug)]
pub enum Activity {
    /// Nothing; takes commands.
    Idle,
    /// The guest reads a DRQ block.
    PioIn(Pio),
    /// The guest writes a DRQ block.
    PioOut(Pio),
    /// A DMA command waits for the bus master to be started. BSY.
    Dma(DmaCommand),
    /// Waits for the I/O thread. BSY.
    Queued(Job),
    /// The I/O thread has it. BSY.
    InFlight,
}

/// A channel's registers and what goes on behind them.
pub struct State {
    /// Drive 0 and drive 1.
    pub drives: [Option<Drive>; 2],
    /// DEV bit of the last write to Device.
    pub selected: usize,
    /// Device Control.
    pub control: DeviceControl,
    /// Bus Master Command.
    pub command: BusMasterCommand,
    /// Bus Master Status.
    pub bus_master: BusMasterStatus,
    /// Descriptor table pointer.
    pub table: u32,
    /// What goes on.
    pub activity: Activity,
    /// The drive whose command goes on.
    pub owner: usize,
    /// Counts what cancels a command: a result from an older one is dropped.
    pub generation: u64,
    /// Counts starts of the bus master.
    pub starts: u64,
    /// The I/O thread is moving data from or to guest memory.
    pub moving: bool,
    /// The I/O thread has a job.
    pub working: bool,
    /// The I/O thread takes no job.
    pub paused: bool,
    /// IDE Decode Enable: the legacy ports answer.
    pub decode: bool,
    line: IrqLine,
    asserted: bool,
    /// A buffer to use again.
    spare: Vec<u8>,
}

impl State {
    /// A channel at power-on.
    pub fn new(drives: [Option<Drive>; 2], line: IrqLine) -> Self {
        Self {
            drives,
            selected: 0,
            control: DeviceControl(0),
            command: BusMasterCommand(0),
            bus_master: BusMasterStatus(0),
            table: 0,
            activity: Activity::Idle,
            owner: 0,
            generation: 0,
            starts: 0,
            moving: false,
            working: false,
            paused: false,
            decode: true,
            line,
            asserted: false,
            spare: Vec::new(),
        }
    }

    /// As at power-on. The caller has cancelled what went on.
    pub fn power_on(&mut self) {
        for drive in self.drives.iter_mut().flatten() {
            drive.power_on();
        }
        self.selected = 0;
        self.control = DeviceControl(0);
        self.command = BusMasterCommand(0);
        self.bus_master = BusMasterStatus(0);
        self.table = 0;
        self.decode = true;
        self.drive_line();
    }

    /// The owner of the registers is a drive, not the guest.
    pub fn is_busy(&self) -> bool {
        self.control.reset()
            || matches!(
                self.activity,
                Activity::Dma(_) | Activity::Queued(_) | Activity::InFlight
            )
    }

    /// There is something for the I/O thread.
    pub fn is_runnable(&self) -> bool {
        match self.activity {
            Activity::Queued(_) => !self.paused,
            Activity::Dma(_) => !self.paused && self.bus_master.active(),
            _ => false,
        }
    }

    fn owner(&mut self) -> Option<&mut Drive> {
        self.drives[self.owner & 1].as_mut()
    }

    /// INTRQ follows the selected drive, while nIEN lets it (ATA/ATAPI-7 vol. 2 §6.3).
    fn drive_line(&mut self) {
        let pending = self.drives[self.selected]
            .as_ref()
            .is_some_and(|d| d.interrupt);
        let level = pending && !self.control.interrupts_off();
        if level != self.asserted {
            self.asserted = level;
            if level {
                self.bus_master.set_interrupt(true);
            }
            self.line.set(level);
        }
    }

    /// INTRQ as it is now.
    pub fn is_asserted(&self) -> bool {
        self.asserted
    }

    fn raise(&mut self) {
        if let Some(drive) = self.owner() {
            drive.interrupt = true;
        }
        self.drive_line();
    }

    // Registers.

    /// Reads a register of the command block, Data excepted.
    pub fn read_register(&mut self, offset: u64) -> u8 {
        let high_order = self.control.high_order();
        let selected = self.selected;
        let reset = self.control.reset();
        // A drive that is not there reads as zeros: not busy, and no signature.
        let Some(drive) = self.drives[selected].as_mut() else {
            let any = self.drives.iter().any(Option::is_some);
            return match offset {
                command_block::DEVICE if any => 0xa0 | (selected as u8) << 4,
                _ => 0,
            };
        };
        match offset {
            command_block::ERROR_FEATURES => drive.error,
            command_block::STATUS_COMMAND => {
                drive.interrupt = false;
                let status = if reset { 0x80 } else { drive.status.0 };
                self.drive_line();
                status
            }
            _ => drive.regs.read(offset, high_order),
        }
    }

    /// Alternate Status: as Status, but the interrupt stays.
    pub fn alternate_status(&self) -> u8 {
        match &self.drives[self.selected] {
            Some(_) if self.control.reset() => 0x80,
            Some(drive) => drive.status.0,
            None => 0,
        }
    }

    /// Writes Features through Device. Both drives take the write; while one is busy, none.
    pub fn write_register(&mut self, offset: u64, value: u8) {
        if self.is_busy() {
            return;
        }
        self.control.set_high_order(false);
        for drive in self.drives.iter_mut().flatten() {
            drive.regs.write(offset, value);
        }
        if offset == command_block::DEVICE {
            self.selected = usize::from(Device(value).second());
            self.drive_line();
        }
    }

    /// Writes Device Control, all but what SRST brings about.
    pub fn write_control(&mut self, value: u8) {
        self.control = DeviceControl(value);
        self.drive_line();
    }

    /// What SRST brings about, when it is set (ATA/ATAPI-7 vol. 2 §9.2). The caller has
    /// cancelled what went on.
    pub fn soft_reset(&mut self) {
        for drive in self.drives.iter_mut().flatten() {
            drive.soft_reset();
        }
        self.selected = 0;
        self.drive_line();
    }

    /// Ends what goes on without a result.
    pub fn drop_activity(&mut self) {
        self.generation += 1;
        if let Activity::PioIn(pio) | Activity::PioOut(pio) =
            std::mem::replace(&mut self.activity, Activity::Idle)
        {
            self.recycle(pio.buffer);
        }
    }

    // Commands.

    /// Writes Command.
    pub fn issue(&mut self, code: u8) {
        if self.is_busy() {
            return;
        }
        self.control.set_high_order(false);
        // A command in place of the rest of a transfer ends the transfer.
        self.drop_activity();
        self.owner = self.selected;
        let Some(drive) = self.owner() else { return };
        let action = drive.execute(code);
        self.drive_line();
        self.apply(action);
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Done => self.complete(),
            Action::Quiet => {
                if let Some(drive) = self.owner() {
                    let selected = drive.regs.device & 0x10;
                    drive.show_signature();
                    drive.regs.device = selected;
                }
            }
            Action::Fail(error) => self.fail(error.0, false),
            Action::Give(bytes) => self.offer(Pio::new(bytes, Purpose::Information)),
            Action::Read(extent) => {
                let buffer = std::mem::take(&mut self.spare);
                self.queue(Job::Fill(Pio::new(buffer, Purpose::Contents(extent))));
            }
            Action::Write(extent) => {
                let buffer = std::mem::take(&mut self.spare);
                self.accept(Pio::new(buffer, Purpose::Contents(extent)), false);
            }
            Action::Dma(command) => self.await_bus_master(command),
            Action::Work(job) => self.queue(job),
            Action::AwaitPacket => {
                let pio = Pio::new(vec![0; 12], Purpose::Packet);
                self.accept(pio, false);
            }
            Action::Diagnose => self.diagnose(),
        }
    }

    /// EXECUTE DEVICE DIAGNOSTIC: both drives do, drive 0 answers.
    fn diagnose(&mut self) {
        for drive in self.drives.iter_mut().flatten() {
            drive.show_signature();
        }
        self.owner = usize::from(self.drives[0].is_none());
        self.selected = 0;
        self.raise();
    }

    fn queue(&mut self, job: Job) {
        if let Some(drive) = self.owner() {
            drive.set_busy();
        }
        self.activity = Activity::Queued(job);
    }

    /// Waits for the bus master to move (the rest of) a command's data.
    pub fn await_bus_master(&mut self, command: DmaCommand) {
        if let Some(drive) = self.owner() {
            drive.set_busy();
        }
        self.activity = Activity::Dma(command);
    }

    /// Ends the command well.
    pub fn complete(&mut self) {
        self.activity = Activity::Idle;
        if let Some(drive) = self.owner() {
            drive.set_done();
        }
        self.raise();
    }

    /// Ends the command in error.
    pub fn fail(&mut self, error: u8, fault: bool) {
        self.activity = Activity::Idle;
        if let Some(drive) = self.owner() {
            drive.set_failed(error, fault);
        }
        self.raise();
    }

    /// Ends a packet command in CHECK CONDITION.
    fn check(&mut self, sense: Sense) {
        self.fail(packet_error(sense.key), false);
    }

    /// Ends the command because the medium (or, with `None`, memory) did not do.
    pub fn fail_media(&mut self, direction: Direction, position: Option<(&Extent, u64)>) {
        let Some(drive) = self.owner() else { return };
        if let Model::Cdrom(cdrom) = &mut drive.model {
            cdrom.sense = if position.is_some() {
                Sense::UNREADABLE
            } else {
                Sense::TARGET_FAILURE
            };
            let sense = cdrom.sense;
            return self.check(sense);
        }
        if let Some((extent, byte)) = position {
            drive.show_position(extent, byte);
        }
        match direction {
            Direction::In if position.is_some() => self.fail(ErrorBits::UNCORRECTABLE.0, false),
            Direction::In => self.fail(ErrorBits::ABORTED.0, false),
            Direction::Out => self.fail(ErrorBits::ABORTED.0, position.is_some()),
        }
    }

    /// Shows the last sector of a command on the medium.
    pub fn show_end(&mut self, extent: &Extent) {
        if let Some(drive) = self.owner() {
            drive.show_position(extent, extent.offset.saturating_sub(1));
        }
    }

    // Programmed transfers.

    /// Opens the next block of a full buffer for the guest to read.
    pub fn offer(&mut self, mut pio: Pio) {
        let len = pio.next_block();
        let mut reason = InterruptReason(0);
        reason.set_to_host(true);
        if let Some(drive) = self.owner() {
            drive.set_data_request(len, reason);
        }
        self.activity = Activity::PioIn(pio);
        self.raise();
    }

    /// Opens the next block of a buffer for the guest to fill. The first block of a command
    /// comes without an interrupt.
    pub fn accept(&mut self, mut pio: Pio, interrupt: bool) {
        if let Purpose::Contents(extent) = pio.purpose
            && pio.position == 0
        {
            pio.buffer.resize(extent.left.min(CHUNK) as usize, 0);
        }
        let len = pio.next_block();
        let mut reason = InterruptReason(0);
        reason.set_command(pio.purpose == Purpose::Packet);
        if let Some(drive) = self.owner() {
            drive.set_data_request(len, reason);
        }
        self.activity = Activity::PioOut(pio);
        if interrupt {
            self.raise();
        }
    }

    /// Reads the data register: whole words, of which the guest may take fewer bytes.
    pub fn read_data(&mut self, data: &mut [u8]) {
        if self.selected != self.owner {
            return data.fill(0);
        }
        if let [byte] = data {
            let mut word = [0; 2];
            self.read_data(&mut word);
            *byte = word[0];
            return;
        }
        let mut at = 0;
        while at < data.len() {
            let Activity::PioIn(pio) = &mut self.activity else {
                return data[at..].fill(0);
            };
            let len = (data.len() - at).min(pio.block_end - pio.position);
            let block = &pio.buffer[pio.position..pio.position + len];
            data[at..at + len].copy_from_slice(block);
            pio.position += len;
            at += len;
            if pio.position == pio.block_end {
                // A block of odd length ends in half a word.
                if len % 2 == 1
                    && let Some(pad) = data.get_mut(at)
                {
                    *pad = 0;
                    at += 1;
                }
                self.block_read();
            }
        }
    }

    /// The guest has read a DRQ block.
    fn block_read(&mut self) {
        let Activity::PioIn(pio) = std::mem::replace(&mut self.activity, Activity::Idle) else {
            return;
        };
        if pio.position < pio.buffer.len() {
            return self.offer(pio);
        }
        match pio.purpose {
            Purpose::Contents(extent) if extent.left > 0 => self.queue(Job::Fill(pio)),
            Purpose::Contents(extent) if extent.addressing.is_none() => {
                self.recycle(pio.buffer);
                self.complete();
            }
            purpose => {
                // A disk's last block has no interrupt after it.
                self.recycle(pio.buffer);
                if let Some(drive) = self.owner() {
                    drive.set_done();
                }
                if let Purpose::Contents(extent) = purpose {
                    self.show_end(&extent);
                }
            }
        }
    }

    /// Writes the data register.
    pub fn write_data(&mut self, data: &[u8]) {
        if self.selected != self.owner {
            return;
        }
        if let [byte] = *data {
            return self.write_data(&[byte, 0]);
        }
        let mut rest = data;
        while let (Activity::PioOut(pio), false) = (&mut self.activity, rest.is_empty()) {
            let len = rest.len().min(pio.block_end - pio.position);
            let (now, later) = rest.split_at(len);
            pio.buffer[pio.position..pio.position + len].copy_from_slice(now);
            pio.position += len;
            rest = later;
            if pio.position == pio.block_end {
                self.block_written();
            }
        }
    }

    /// The guest has written a DRQ block.
    fn block_written(&mut self) {
        let Activity::PioOut(pio) = std::mem::replace(&mut self.activity, Activity::Idle) else {
            return;
        };
        match pio.purpose {
            Purpose::Packet => self.run_packet(&pio.buffer),
            _ if pio.position < pio.buffer.len() => self.accept(pio, true),
            _ => self.queue(Job::Drain(pio)),
        }
    }

    /// A command packet is there.
    fn run_packet(&mut self, bytes: &[u8]) {
        let mut packet = [0; 12];
        packet.copy_from_slice(&bytes[..12]);
        let Some(drive) = self.owner() else { return };
        let (dma, limit) = (drive.packet_dma, usize::from(drive.packet_limit) & !1);
        let Model::Cdrom(cdrom) = &mut drive.model else {
            return self.fail(ErrorBits::ABORTED.0, false);
        };
        let response = cdrom.packet(&packet);
        let extent = |offset, left| Extent {
            offset,
            left,
            block: limit,
            addressing: None,
            durable: false,
        };
        match response {
            Response::Good => self.complete(),
            Response::Check(sense) => self.check(sense),
            Response::Data(bytes) if bytes.is_empty() => self.complete(),
            Response::Data(bytes) if dma => self.await_bus_master(DmaCommand {
                direction: Direction::In,
                payload: Payload::Buffer { bytes, done: 0 },
            }),
            Response::Contents { offset, len } if dma => self.await_bus_master(DmaCommand {
                direction: Direction::In,
                payload: Payload::Medium(extent(offset, len)),
            }),
            // Data, and no way to hand it over (ATA/ATAPI-7 vol. 1 §6.24).
            _ if limit == 0 => self.fail(ErrorBits::ABORTED.0, false),
            Response::Data(bytes) => self.offer(Pio::new(bytes, Purpose::Contents(extent(0, 0)))),
            Response::Contents { offset, len } => {
                let buffer = std::mem::take(&mut self.spare);
                let purpose = Purpose::Contents(extent(offset, len));
                self.queue(Job::Fill(Pio::new(buffer, purpose)));
            }
        }
    }

    // The bus master.

    /// Writes Bus Master Command. True if that stopped a transfer: the caller waits for the
    /// I/O thread to let go of memory.
    pub fn write_bus_master_command(&mut self, value: u8) -> bool {
        let old = self.command;
        self.command = BusMasterCommand(value & BusMasterCommand::MASK);
        match (old.start(), self.command.start()) {
            (false, true) => {
                self.starts += 1;
                self.bus_master.set_active(true);
                false
            }
            (true, false) => {
                self.bus_master.set_active(false);
                true
            }
            _ => false,
        }
    }

    /// Writes Bus Master Status.
    pub fn write_bus_master_status(&mut self, value: u8) {
        let kept = self.bus_master.0 & !(value & BusMasterStatus::CLEARED_BY_ONE);
        let plain = value & BusMasterStatus::PLAIN;
        self.bus_master = BusMasterStatus(kept & !BusMasterStatus::PLAIN | plain);
    }

    /// Writes a byte of the descriptor table pointer, bits 1:0 of which stay zero.
    pub fn write_table(&mut self, byte: u32, value: u8) {
        let shift = 8 * (byte & 3);
        self.table = (self.table & !(0xff << shift) | u32::from(value) << shift) & !3;
    }

    /// A job for the I/O thread, with the drive it is for.
    pub fn take_job(&mut self) -> Option<Job> {
        if !self.is_runnable() {
            return None;
        }
        let job = match std::mem::replace(&mut self.activity, Activity::InFlight) {
            Activity::Queued(job) => job,
            Activity::Dma(command) => Job::Dma(command),
            other => {
                self.activity = other;
                return None;
            }
        };
        self.working = true;
        self.moving = matches!(job, Job::Dma(_));
        Some(job)
    }

    /// Gives a buffer back for the next transfer.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.capacity() < buffer.capacity() {
            self.spare = buffer;
        }
    }
}
