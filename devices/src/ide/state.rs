//! What the controller says of itself: for inspection, tests, and later snapshots.

use pci::ConfigSpaceState;
use serde::Serialize;

use super::cdrom::Sense;
use super::channel::State;
use super::disk::Settings;
use super::drive::{Drive, Model};
use super::ports::activity_name;
use super::statistics::StatisticsSnapshot;
use super::task_file::TaskFile;

/// The controller.
#[derive(Clone, Debug, Serialize)]
pub struct IdeState {
    /// Config space.
    pub config: ConfigSpaceState,
    /// Both channels.
    pub channels: [ChannelState; 2],
}

/// A channel.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelState {
    /// The selected drive.
    pub selected: usize,
    /// Device Control.
    pub control: u8,
    /// INTRQ.
    pub interrupt: bool,
    /// What the channel is at, in words.
    pub activity: &'static str,
    /// The legacy ports answer.
    pub decode: bool,
    /// Bus Master Command.
    pub bus_master_command: u8,
    /// Bus Master Status.
    pub bus_master_status: u8,
    /// Descriptor table pointer.
    pub table: u32,
    /// Drive 0 and drive 1.
    pub drives: [Option<DriveState>; 2],
}

/// A drive.
#[derive(Clone, Debug, Serialize)]
pub struct DriveState {
    /// Such as `ide0.1`.
    pub name: String,
    /// Task file.
    pub registers: TaskFile,
    /// Status.
    pub status: u8,
    /// Error.
    pub error: u8,
    /// INTRQ is pending.
    pub interrupt: bool,
    /// What is particular to the kind of drive.
    pub model: ModelState,
    /// Counters.
    pub statistics: StatisticsSnapshot,
}

/// What is particular to a kind of drive.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ModelState {
    /// An ATA disk.
    Disk {
        /// Sectors.
        capacity: u64,
        /// What commands have set.
        settings: Settings,
    },
    /// An ATAPI CD-ROM.
    Cdrom {
        /// Blocks.
        blocks: u32,
        /// The tray is in.
        loaded: bool,
        /// The tray is locked.
        locked: bool,
        /// Sense data of the last packet.
        sense: Sense,
    },
}

impl ChannelState {
    /// Of a channel now.
    pub fn of(state: &State) -> Self {
        Self {
            selected: state.selected,
            control: state.control.0,
            interrupt: state.is_asserted(),
            activity: activity_name(&state.activity),
            decode: state.decode,
            bus_master_command: state.command.0,
            bus_master_status: state.bus_master.0,
            table: state.table,
            drives: [0, 1].map(|i: usize| state.drives[i].as_ref().map(DriveState::of)),
        }
    }
}

impl DriveState {
    fn of(drive: &Drive) -> Self {
        Self {
            name: drive.name.to_string(),
            registers: drive.regs,
            status: drive.status.0,
            error: drive.error,
            interrupt: drive.interrupt,
            model: match &drive.model {
                Model::Disk(disk) => ModelState::Disk {
                    capacity: disk.capacity,
                    settings: disk.settings,
                },
                Model::Cdrom(cdrom) => ModelState::Cdrom {
                    blocks: cdrom.blocks,
                    loaded: cdrom.loaded,
                    locked: cdrom.locked,
                    sense: cdrom.sense,
                },
            },
            statistics: drive.statistics.snapshot(),
        }
    }
}
