//! An ATAPI CD-ROM or DVD-ROM drive: its state and its ATA commands. Packets are in
//! [`packet`].

pub mod features;
pub mod packet;
pub mod sense;
mod toc;

use super::command::Action;
use super::disk::{Identity, IdentityData, TransferMode};
use super::registers::{ErrorBits, feature, opcode as op};
use super::task_file::TaskFile;
use crate::block::BlockBackend;

pub use features::Profile;
pub use packet::Response;
pub use sense::Sense;

/// Bytes in a block of a data disc.
pub const BLOCK: u64 = 2048;

/// Blocks on the longest CD (99 minutes); what is larger is a DVD.
const LONGEST_CD: u32 = 99 * 60 * 75;

/// An ATAPI drive with its disc.
#[derive(Debug)]
pub struct Cdrom {
    /// What it calls itself.
    pub identity: Identity,
    /// Blocks on the disc.
    pub blocks: u32,
    /// The tray is in.
    pub loaded: bool,
    /// PREVENT MEDIUM REMOVAL.
    pub locked: bool,
    /// Of the last packet.
    pub sense: Sense,
    /// Reported by the next packet, in place of executing it.
    pub attention: Option<Sense>,
    /// Reported once by GET EVENT STATUS NOTIFICATION.
    pub media_event: u8,
    /// Shown, and without effect.
    pub transfer_mode: TransferMode,
}

impl Cdrom {
    /// A drive just powered on, its disc in.
    pub fn new(identity: Identity, backend: &dyn BlockBackend) -> Self {
        Self {
            identity,
            blocks: u32::try_from(backend.len().div_ceil(BLOCK)).unwrap_or(u32::MAX),
            loaded: true,
            locked: false,
            sense: Sense::NONE,
            attention: None,
            media_event: 0,
            transfer_mode: TransferMode::Pio,
        }
    }

    /// Hardware reset: the tray goes in, unlocked; nothing is pending.
    pub fn power_on(&mut self) {
        self.loaded = true;
        self.transfer_mode = TransferMode::Pio;
        self.media_event = 0;
        self.soft_reset();
    }

    /// Software reset and DEVICE RESET: the tray stays where it is.
    pub fn soft_reset(&mut self) {
        self.locked = false;
        self.sense = Sense::NONE;
        self.attention = None;
    }

    /// The kind of disc in the tray.
    pub fn profile(&self) -> Profile {
        match (self.loaded, self.blocks > LONGEST_CD) {
            (false, _) => Profile::None,
            (true, false) => Profile::CdRom,
            (true, true) => Profile::DvdRom,
        }
    }

    /// Takes an ATA command.
    pub fn execute(&mut self, opcode: u8, regs: &mut TaskFile) -> Action {
        match opcode {
            op::PACKET => Action::AwaitPacket,
            op::IDENTIFY_PACKET_DEVICE => Action::Give(self.identify()),
            op::DEVICE_RESET => {
                self.soft_reset();
                regs.set_signature(true);
                Action::Quiet
            }
            op::SET_FEATURES => self.set_features(regs),
            op::EXECUTE_DEVICE_DIAGNOSTIC => Action::Diagnose,
            op::STANDBY_IMMEDIATE | op::IDLE_IMMEDIATE | op::SLEEP | op::FLUSH_CACHE => {
                Action::Done
            }
            op::CHECK_POWER_MODE => {
                regs.count.current = 0xff;
                Action::Done
            }
            // Where a disk's driver looks, the signature says that this is none.
            op::IDENTIFY_DEVICE | op::READ_SECTORS => {
                regs.set_signature(true);
                Action::Fail(ErrorBits::ABORTED)
            }
            _ => Action::Fail(ErrorBits::ABORTED),
        }
    }

    fn set_features(&mut self, regs: &TaskFile) -> Action {
        if regs.features.current == feature::SET_TRANSFER_MODE
            && let Some(mode) = TransferMode::from_count(regs.count.current)
        {
            self.transfer_mode = mode;
            return Action::Done;
        }
        Action::Fail(ErrorBits::ABORTED)
    }

    /// IDENTIFY PACKET DEVICE (ATA/ATAPI-7 vol. 1 §6.18).
    fn identify(&self) -> Vec<u8> {
        // Packet feature set, NOP, DEVICE RESET, power management.
        let set_1 = 1 << 14 | 1 << 9 | 1 << 4 | 1 << 3;
        let mut data = IdentityData::new();
        // ATAPI, CD/DVD, removable, DRQ within 50 µs of PACKET, 12-byte packets.
        data.word(0, 0x85c0)
            .text(10, 10, &self.identity.serial)
            .text(23, 4, &self.identity.firmware)
            .text(27, 20, &self.identity.model)
            .transfer_modes(self.transfer_mode)
            .word(80, 0x00f0)
            .word(82, set_1)
            .word(83, 1 << 14)
            .word(84, 1 << 14)
            .word(85, set_1)
            .word(87, 1 << 14)
            .word(93, 0x6001);
        data.finish()
    }
}
