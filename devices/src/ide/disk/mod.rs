//! An ATA disk: its settings and what it makes of each command (ATA/ATAPI-7 vol. 1 §6).
//!
//! Left out, and aborted as a drive without them does: SMART, security, host protected area
//! changes, READ/WRITE BUFFER, logs, streaming, NCQ (a bus master IDE channel has none).

mod identify;

use serde::Serialize;

use super::command::{Action, Direction, DmaCommand, Extent, Job, Payload};
use super::registers::{ErrorBits, feature, opcode as op};
use super::task_file::{Addressing, Geometry, TaskFile};
use crate::block::{BlockBackend, SECTOR};

pub use identify::IdentityData;

/// What a drive calls itself.
#[derive(Clone, Debug, Serialize)]
pub struct Identity {
    /// Up to 40 characters.
    pub model: String,
    /// Up to 20 characters.
    pub serial: String,
    /// Firmware revision, up to 8 characters.
    pub firmware: String,
}

/// How data goes over the cable. Selected by the guest, shown in the identity, and without
/// effect on speed here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum TransferMode {
    /// No DMA mode selected.
    Pio,
    /// Multiword DMA 0 to 2.
    Multiword(u8),
    /// Ultra DMA 0 to 5.
    Ultra(u8),
}

impl TransferMode {
    /// SET FEATURES 03h: the mode in Sector Count; `None` for one that is not there.
    pub fn from_count(count: u8) -> Option<Self> {
        match (count >> 3, count & 7) {
            (0, 0 | 1) | (1, 0..=4) => Some(Self::Pio),
            (4, n @ 0..=2) => Some(Self::Multiword(n)),
            (8, n @ 0..=5) => Some(Self::Ultra(n)),
            _ => None,
        }
    }
}

/// What commands set. A hardware reset brings back [`Settings::POWER_ON`]; a software reset
/// does so only after SET FEATURES CCh, and never for the transfer mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Settings {
    /// Sectors in a block of READ and WRITE MULTIPLE; 0 for off.
    pub multiple: u8,
    /// Heads and sectors per track for CHS addresses.
    pub geometry: Geometry,
    /// Writes complete when they are in the host's cache, and FLUSH makes them durable.
    pub write_cache: bool,
    /// Shown, and without effect.
    pub look_ahead: bool,
    /// Shown, and without effect.
    pub transfer_mode: TransferMode,
    /// Spun down, as far as CHECK POWER MODE goes; a command on the medium ends it.
    pub standby: bool,
    /// A software reset brings back the defaults.
    pub revert: bool,
}

impl Settings {
    /// As after power-on.
    pub const POWER_ON: Self = Self {
        multiple: Disk::MOST_MULTIPLE,
        geometry: Geometry::DEFAULT,
        write_cache: true,
        look_ahead: true,
        transfer_mode: TransferMode::Pio,
        standby: false,
        revert: false,
    };
}

/// An ATA disk.
#[derive(Debug)]
pub struct Disk {
    /// What it calls itself.
    pub identity: Identity,
    /// Drive 1 of its channel.
    pub second: bool,
    /// Sectors of 512 bytes.
    pub capacity: u64,
    /// What commands set.
    pub settings: Settings,
}

impl Disk {
    /// The largest block of READ and WRITE MULTIPLE, in sectors.
    pub const MOST_MULTIPLE: u8 = 16;
    /// The longest DATA SET MANAGEMENT payload, in 512-byte blocks.
    pub const MOST_TRIM_BLOCKS: u8 = 64;

    /// A disk over a medium, just powered on.
    pub fn new(identity: Identity, second: bool, backend: &dyn BlockBackend) -> Self {
        Self {
            identity,
            second,
            capacity: (backend.len() / SECTOR).min((1 << 48) - 1),
            settings: Settings::POWER_ON,
        }
    }

    /// Hardware reset.
    pub fn power_on(&mut self) {
        self.settings = Settings::POWER_ON;
    }

    /// Software reset.
    pub fn soft_reset(&mut self) {
        if self.settings.revert {
            self.settings = Settings {
                transfer_mode: self.settings.transfer_mode,
                ..Settings::POWER_ON
            };
        }
        self.settings.standby = false;
    }

    /// Takes a command.
    pub fn execute(
        &mut self,
        opcode: u8,
        regs: &mut TaskFile,
        backend: &dyn BlockBackend,
    ) -> Action {
        let short = regs.short_addressing();
        let done_if = |good: bool| {
            if good {
                Action::Done
            } else {
                Action::Fail(ErrorBits::ABORTED)
            }
        };
        match opcode {
            op::READ_DMA | op::READ_DMA_ONCE => self.read_dma(regs, short),
            op::READ_DMA_EXT => self.read_dma(regs, Addressing::Lba48),
            op::WRITE_DMA | op::WRITE_DMA_ONCE => self.write_dma(regs, short, false, backend),
            op::WRITE_DMA_EXT => self.write_dma(regs, Addressing::Lba48, false, backend),
            op::WRITE_DMA_FUA_EXT => self.write_dma(regs, Addressing::Lba48, true, backend),
            op::READ_SECTORS | op::READ_SECTORS_ONCE => self.read_pio(regs, short, 1),
            op::READ_SECTORS_EXT => self.read_pio(regs, Addressing::Lba48, 1),
            op::READ_MULTIPLE => self.read_pio(regs, short, self.settings.multiple),
            op::READ_MULTIPLE_EXT => self.read_pio(regs, Addressing::Lba48, self.settings.multiple),
            op::WRITE_SECTORS | op::WRITE_SECTORS_ONCE => {
                self.write_pio(regs, short, 1, false, backend)
            }
            op::WRITE_SECTORS_EXT => self.write_pio(regs, Addressing::Lba48, 1, false, backend),
            op::WRITE_MULTIPLE => {
                self.write_pio(regs, short, self.settings.multiple, false, backend)
            }
            op::WRITE_MULTIPLE_EXT | op::WRITE_MULTIPLE_FUA_EXT => {
                let durable = opcode == op::WRITE_MULTIPLE_FUA_EXT;
                let multiple = self.settings.multiple;
                self.write_pio(regs, Addressing::Lba48, multiple, durable, backend)
            }
            op::READ_VERIFY | op::READ_VERIFY_ONCE => self.verify(regs, short),
            op::READ_VERIFY_EXT => self.verify(regs, Addressing::Lba48),
            op::FLUSH_CACHE | op::FLUSH_CACHE_EXT => Action::Work(Job::Flush),
            op::DATA_SET_MANAGEMENT => self.data_set_management(regs, backend),
            op::IDENTIFY_DEVICE => Action::Give(self.identify(backend.can_discard())),
            op::SET_FEATURES => self.set_features(regs),
            op::SET_MULTIPLE_MODE => done_if(self.set_multiple(regs.count.current)),
            op::INITIALIZE_DEVICE_PARAMETERS => done_if(self.set_geometry(regs)),
            op::READ_NATIVE_MAX => self.native_max(regs, short),
            op::READ_NATIVE_MAX_EXT => self.native_max(regs, Addressing::Lba48),
            op::RECALIBRATE_FIRST..=op::RECALIBRATE_LAST | op::SEEK_FIRST..=op::SEEK_LAST => {
                Action::Done
            }
            op::EXECUTE_DEVICE_DIAGNOSTIC => Action::Diagnose,
            // Aborts by definition.
            op::NOP => Action::Fail(ErrorBits::ABORTED),
            other => done_if(self.power_management(other, regs)),
        }
    }

    /// The stretch of the medium that the registers name, if it is on the disk.
    fn extent(&mut self, regs: &TaskFile, addressing: Addressing) -> Result<Extent, Action> {
        self.settings.standby = false;
        let lba = regs
            .lba(addressing, self.settings.geometry)
            .map_err(Action::Fail)?;
        let sectors = regs.sectors(addressing);
        if lba + sectors > self.capacity {
            return Err(Action::Fail(ErrorBits::NOT_FOUND));
        }
        Ok(Extent {
            offset: lba * SECTOR,
            left: sectors * SECTOR,
            block: SECTOR as usize,
            addressing: Some(addressing),
            durable: false,
        })
    }

    fn writable_extent(
        &mut self,
        regs: &TaskFile,
        addressing: Addressing,
        durable: bool,
        backend: &dyn BlockBackend,
    ) -> Result<Extent, Action> {
        if backend.is_readonly() {
            return Err(Action::Fail(ErrorBits::ABORTED));
        }
        let extent = self.extent(regs, addressing)?;
        Ok(Extent {
            durable: durable || !self.settings.write_cache,
            ..extent
        })
    }

    fn read_dma(&mut self, regs: &TaskFile, addressing: Addressing) -> Action {
        match self.extent(regs, addressing) {
            Ok(extent) => Action::Dma(DmaCommand {
                direction: Direction::In,
                payload: Payload::Medium(extent),
            }),
            Err(action) => action,
        }
    }

    fn write_dma(
        &mut self,
        regs: &TaskFile,
        addressing: Addressing,
        durable: bool,
        backend: &dyn BlockBackend,
    ) -> Action {
        match self.writable_extent(regs, addressing, durable, backend) {
            Ok(extent) => Action::Dma(DmaCommand {
                direction: Direction::Out,
                payload: Payload::Medium(extent),
            }),
            Err(action) => action,
        }
    }

    fn read_pio(&mut self, regs: &TaskFile, addressing: Addressing, multiple: u8) -> Action {
        if multiple == 0 {
            return Action::Fail(ErrorBits::ABORTED);
        }
        match self.extent(regs, addressing) {
            Ok(extent) => Action::Read(Extent {
                block: usize::from(multiple) * SECTOR as usize,
                ..extent
            }),
            Err(action) => action,
        }
    }

    fn write_pio(
        &mut self,
        regs: &TaskFile,
        addressing: Addressing,
        multiple: u8,
        durable: bool,
        backend: &dyn BlockBackend,
    ) -> Action {
        if multiple == 0 {
            return Action::Fail(ErrorBits::ABORTED);
        }
        match self.writable_extent(regs, addressing, durable, backend) {
            Ok(extent) => Action::Write(Extent {
                block: usize::from(multiple) * SECTOR as usize,
                ..extent
            }),
            Err(action) => action,
        }
    }

    fn verify(&mut self, regs: &TaskFile, addressing: Addressing) -> Action {
        match self.extent(regs, addressing) {
            Ok(extent) => Action::Work(Job::Verify(extent)),
            Err(action) => action,
        }
    }

    /// DATA SET MANAGEMENT with TRIM (ACS-2 §7.10).
    fn data_set_management(&self, regs: &TaskFile, backend: &dyn BlockBackend) -> Action {
        let blocks = regs.count.wide();
        let trim = regs.features.current & 1 != 0;
        let in_range = (1..=u16::from(Self::MOST_TRIM_BLOCKS)).contains(&blocks);
        if !trim || !in_range || !backend.can_discard() {
            return Action::Fail(ErrorBits::ABORTED);
        }
        Action::Dma(DmaCommand {
            direction: Direction::Out,
            payload: Payload::Buffer {
                bytes: vec![0; usize::from(blocks) * SECTOR as usize],
                done: 0,
            },
        })
    }

    fn set_features(&mut self, regs: &TaskFile) -> Action {
        match regs.features.current {
            feature::SET_TRANSFER_MODE => match TransferMode::from_count(regs.count.current) {
                Some(mode) => self.settings.transfer_mode = mode,
                None => return Action::Fail(ErrorBits::ABORTED),
            },
            feature::ENABLE_WRITE_CACHE => self.settings.write_cache = true,
            feature::DISABLE_WRITE_CACHE => {
                self.settings.write_cache = false;
                return Action::Work(Job::Flush);
            }
            feature::ENABLE_READ_LOOK_AHEAD => self.settings.look_ahead = true,
            feature::DISABLE_READ_LOOK_AHEAD => self.settings.look_ahead = false,
            feature::KEEP_OVER_SOFT_RESET => self.settings.revert = false,
            feature::REVERT_AT_SOFT_RESET => self.settings.revert = true,
            _ => return Action::Fail(ErrorBits::ABORTED),
        }
        Action::Done
    }

    fn set_multiple(&mut self, count: u8) -> bool {
        let good = count == 0 || count.is_power_of_two() && count <= Self::MOST_MULTIPLE;
        if good {
            self.settings.multiple = count;
        }
        good
    }

    fn set_geometry(&mut self, regs: &TaskFile) -> bool {
        let sectors = regs.count.current;
        if sectors != 0 {
            let heads = (regs.device & 0xf) + 1;
            self.settings.geometry = Geometry { heads, sectors };
        }
        sectors != 0
    }

    fn native_max(&self, regs: &mut TaskFile, addressing: Addressing) -> Action {
        let last = self.capacity.saturating_sub(1);
        let last = match addressing {
            Addressing::Lba28 => last.min((1 << 28) - 1),
            _ => last,
        };
        regs.set_lba(addressing, self.settings.geometry, last);
        Action::Done
    }

    /// The power management commands, under their present and their old codes. Sleep is as
    /// standby: the drive still answers, so that nothing depends on how it is woken.
    fn power_management(&mut self, opcode: u8, regs: &mut TaskFile) -> bool {
        match opcode {
            op::STANDBY_IMMEDIATE
            | op::STANDBY_IMMEDIATE_OLD
            | op::STANDBY
            | op::STANDBY_OLD
            | op::SLEEP
            | op::SLEEP_OLD => self.settings.standby = true,
            op::IDLE_IMMEDIATE | op::IDLE_IMMEDIATE_OLD | op::IDLE | op::IDLE_OLD => {
                self.settings.standby = false;
            }
            op::CHECK_POWER_MODE | op::CHECK_POWER_MODE_OLD => {
                regs.count.current = if self.settings.standby { 0 } else { 0xff };
            }
            _ => return false,
        }
        true
    }
}
