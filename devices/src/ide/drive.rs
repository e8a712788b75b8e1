//! A drive on a channel: a model (disk or CD-ROM) behind a set of registers.

use std::sync::Arc;

use super::cdrom::Cdrom;
use super::command::{Action, Extent};
use super::disk::Disk;
use super::registers::{ErrorBits, InterruptReason, Status, opcode};
use super::statistics::Statistics;
use super::task_file::{Geometry, TaskFile};
use crate::block::{BlockBackend, SECTOR};

/// What kind of drive.
#[derive(Debug)]
pub enum Model {
    /// An ATA disk.
    Disk(Disk),
    /// An ATAPI CD-ROM.
    Cdrom(Cdrom),
}

/// The diagnostic code that says "passed" (ATA/ATAPI-7 vol. 1 §6.13).
const PASSED: u8 = 1;

/// A drive.
pub struct Drive {
    /// For logs, such as `ide0.1`.
    pub name: Arc<str>,
    /// Its medium.
    pub backend: Arc<dyn BlockBackend>,
    /// Counters.
    pub statistics: Arc<Statistics>,
    /// What it is.
    pub model: Model,
    /// Parameters and results.
    pub regs: TaskFile,
    /// Status register.
    pub status: Status,
    /// Error register.
    pub error: u8,
    /// INTRQ pending: asserted while selected.
    pub interrupt: bool,
    /// The command in progress is PACKET.
    pub packet: bool,
    /// The PACKET command in progress moves its data by DMA.
    pub packet_dma: bool,
    /// Byte count limit of the PACKET command in progress.
    pub packet_limit: u16,
}

impl Drive {
    /// A drive just powered on.
    pub fn new(
        name: Arc<str>,
        model: Model,
        backend: Arc<dyn BlockBackend>,
        statistics: Arc<Statistics>,
    ) -> Self {
        let mut drive = Self {
            name,
            backend,
            statistics,
            model,
            regs: TaskFile::default(),
            status: Status(0),
            error: 0,
            interrupt: false,
            packet: false,
            packet_dma: false,
            packet_limit: 0,
        };
        drive.show_signature();
        drive
    }

    /// Speaks packets.
    pub fn is_packet(&self) -> bool {
        matches!(self.model, Model::Cdrom(_))
    }

    /// Hardware reset.
    pub fn power_on(&mut self) {
        match &mut self.model {
            Model::Disk(disk) => disk.power_on(),
            Model::Cdrom(cdrom) => cdrom.power_on(),
        }
        self.regs = TaskFile::default();
        self.show_signature();
    }

    /// Software reset.
    pub fn soft_reset(&mut self) {
        match &mut self.model {
            Model::Disk(disk) => disk.soft_reset(),
            Model::Cdrom(cdrom) => cdrom.soft_reset(),
        }
        self.show_signature();
    }

    /// The registers after a reset or a diagnosis: a packet device is not "ready" until its
    /// first command (ATA/ATAPI-7 vol. 2 §9).
    pub fn show_signature(&mut self) {
        let packet = self.is_packet();
        self.regs.set_signature(packet);
        self.regs.device = 0;
        self.error = PASSED;
        self.status = if packet { Status(0) } else { ready() };
        self.interrupt = false;
    }

    /// Takes a command.
    pub fn execute(&mut self, code: u8) -> Action {
        self.error = 0;
        self.interrupt = false;
        self.statistics.commands.add(1);
        self.packet = self.is_packet() && code == opcode::PACKET;
        if self.packet {
            self.packet_dma = self.regs.features.current & 1 != 0;
            self.packet_limit =
                u16::from_le_bytes([self.regs.lba_mid.current, self.regs.lba_high.current]);
        }
        match &mut self.model {
            Model::Disk(disk) => disk.execute(code, &mut self.regs, &*self.backend),
            Model::Cdrom(cdrom) => cdrom.execute(code, &mut self.regs),
        }
    }

    /// BSY: the registers are the drive's.
    pub fn set_busy(&mut self) {
        self.status = ready();
        self.status.set_busy(true);
    }

    /// DRQ: `len` bytes wait to be moved.
    pub fn set_data_request(&mut self, len: usize, reason: InterruptReason) {
        self.status = ready();
        self.status.set_data_request(true);
        if self.packet {
            self.regs.count.current = reason.0;
            let [low, high] = (len.min(0xffff) as u16).to_le_bytes();
            self.regs.lba_mid.current = low;
            self.regs.lba_high.current = high;
        }
    }

    /// The command in progress has ended well.
    pub fn set_done(&mut self) {
        self.status = ready();
        self.show_command_over();
    }

    /// The command in progress has ended in error.
    pub fn set_failed(&mut self, error: u8, fault: bool) {
        self.status = ready();
        self.status.set_error(true);
        self.status.set_fault(fault);
        self.error = error;
        self.statistics.errors.add(1);
        self.show_command_over();
    }

    fn show_command_over(&mut self) {
        // The other commands keep Sector Count for their results.
        if self.packet {
            self.regs.count.current = InterruptReason(3).0;
        }
    }

    /// Shows how far a command on the medium came: the last sector, or the one in error.
    pub fn show_position(&mut self, extent: &Extent, byte: u64) {
        if let (Model::Disk(disk), Some(addressing)) = (&self.model, extent.addressing) {
            let geometry: Geometry = disk.settings.geometry;
            self.regs.set_lba(addressing, geometry, byte / SECTOR);
        }
    }
}

/// DRDY and DSC.
fn ready() -> Status {
    let mut status = Status(0);
    status.set_ready(true);
    status.set_seek_complete(true);
    status
}

/// The Error register of a packet device: the sense key, and ABRT for what it will not do.
pub fn packet_error(key: u8) -> u8 {
    const ILLEGAL_REQUEST: u8 = 5;
    let aborted = if key == ILLEGAL_REQUEST {
        ErrorBits::ABORTED.0
    } else {
        0
    };
    key << 4 | aborted
}
