//! A two-channel IDE controller (82371SB "PIIX3" function 1, 8086:7010) with up to four
//! drives: ATA disks and ATAPI CD-ROMs. Linux drives it with `ata_piix`.
//!
//! A guest's access goes *region* (`ports`) → *channel* (`channel`: registers, one command
//! at a time) → *drive* (`drive`, `disk`, `cdrom`: what a command means), and what takes
//! time goes on to the channel's I/O thread (`worker`), which moves bytes straight between
//! the image and guest memory (`prd`) and raises INTRQ when they are there. No lock is held
//! over I/O, and a vCPU waits for the thread in one case only: it stops or resets a transfer
//! that is moving data, and then for the batch under way.
//!
//! Left out: native mode, overlapped and queued commands, and whatever `disk` and `cdrom`
//! say they leave out.
//!
//! # Exits of a DMA command
//!
//! What libata's SFF code does for one DMA command, and what of it comes to this process. A
//! plain model of the registers pays for all 26.
//!
//! | step (libata) | access | exits |
//! | --- | --- | --- |
//! | `ata_dev_select` | read status | 1 |
//! | | write drive/head | queued |
//! | | read alternate status | 1 |
//! | | read status | 1 |
//! | `ata_sff_tf_load` | write features to LBA high, 5 (10 for 48 bits) | queued |
//! | | write drive/head | queued |
//! | | read status | 1 |
//! | `ata_bmdma_setup` | write table pointer | queued |
//! | | read bus master command | 1 |
//! | | write bus master command: direction | queued |
//! | `ata_sff_exec_command` | write command | doorbell |
//! | | read alternate status | 1 |
//! | `ata_bmdma_start` | read bus master command | 1 |
//! | | write bus master command: start | doorbell |
//! | `ata_bmdma_port_intr` | read bus master status | 1 |
//! | `ata_bmdma_stop` | read bus master command | 1 |
//! | | write bus master command: stop | queued |
//! | | read alternate status | 1 |
//! | `ata_sff_irq_status` | read alternate status | 1 |
//! | | read status | 1 |
//! | `ata_bmdma_irq_clear` | read bus master status | 1 |
//! | | write bus master status | queued |
//! | **all** | | **13** |
//!
//! *Queued* is [`FastPath::Coalesced`](crate::bus::FastPath::Coalesced), *doorbell* is
//! [`FastPath::Doorbell`](crate::bus::FastPath::Doorbell) with data match, for the opcodes of
//! READ and WRITE DMA (EXT) and for the values 09h and 01h of Bus Master Command. The start
//! wakes the I/O thread with no exit; the command wakes it only while the bus master is
//! started already, as otherwise there is nothing to do before the start.
//!
//! # Order
//!
//! Queued writes keep their order among themselves. Doorbells have none but this: before
//! anyone acts on a doorbell, all writes queued before it was rung are handed out; of those
//! rung at once a command comes before a start; and every register read (and every write
//! that exits) first takes what rings. So a read sees all that its vCPU wrote before it, and
//! nothing is lost to a guest that reads anything between a write and the write that must
//! follow it.
//!
//! What a guest does between two looks of ours (no read of the channel, no exit of any vCPU,
//! and the I/O thread not yet awake) may be taken as if queued writes came before doorbells:
//!
//! * Registers written right after a command, before its status was read: the command may
//!   take the new values. The device was BSY or about to be; it may do so by the standard.
//! * Stop right after start: the transfer runs, as if stop had come first. A stop of a
//!   running transfer takes effect by the next exit of any vCPU or the end of the batch,
//!   whichever is sooner; a guest that reads any register after it (all of them do, to learn
//!   what became of the transfer) finds memory left alone.
//! * The same command twice is one command; different ones are taken in the order of the
//!   list of doorbells, and the second finds the drive BSY and is ignored.
//! * A start with a value that has no doorbell (reserved bits set) waits for the next exit.
//!
//! All of these change what the guest's own command does to the guest's own memory and disk.
//! None reaches anything else: every interleaving ends in a call of the same functions that
//! exits call, under the channel's lock.
//!
//! # Reset
//!
//! | | function reset | SRST | DEVICE RESET (CD-ROM) |
//! | --- | --- | --- | --- |
//! | command in progress | dropped | dropped, both drives | dropped |
//! | task file | signature | signature | signature |
//! | drive settings | power-on | kept, or power-on after SET FEATURES CCh | kept |
//! | transfer mode | power-on | kept | kept |
//! | tray; lock; sense | in; off; none | kept; off; none | kept; off; none |
//! | bus master registers | zero | kept | kept |
//! | config space, nIEN | power-on | kept | kept |
//! | media, counters | kept | kept | kept |
//!
//! The function is found as firmware would leave it: both channels decode their ports.

mod cdrom;
mod channel;
mod command;
mod controller;
mod disk;
mod doorbell;
mod drive;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod ports;
mod prd;
mod registers;
mod state;
mod statistics;
mod task_file;
mod worker;

pub use controller::{DriveConfig, DriveKind, IdeConfig, IdeController, LEGACY_IRQS, LegacyPorts};
pub use state::{ChannelState, DriveState, IdeState, ModelState};
pub use statistics::StatisticsSnapshot;

#[cfg(test)]
mod tests;
