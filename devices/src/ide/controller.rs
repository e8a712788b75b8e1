//! The PCI function: config space, wiring of regions, lines and threads.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use pci::{
    BarIndex, BarKind, Bdf, Changes, ClassCode, ConfigSpace, ConfigWrite, Function, Ids, Register,
    Window,
};

use super::cdrom::Cdrom;
use super::channel::State;
use super::disk::{Disk, Identity};
use super::drive::{Drive, Model};
use super::ports::{BusMasterBar, Channel, CommandBlock, ControlBlock};
use super::registers::{bus_master_block, config};
use super::state::{ChannelState, IdeState};
use super::statistics::{Statistics, StatisticsSnapshot};
use super::worker;
use crate::block::BlockBackend;
use crate::bus::{Deferred, FastPath, PciDevice, Region};
use crate::dma::Dma;
use crate::irq::IrqLine;

/// The kinds of drives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DriveKind {
    /// An ATA disk.
    Disk,
    /// An ATAPI CD-ROM.
    Cdrom,
}

/// A drive to be.
pub struct DriveConfig {
    /// Disk or CD-ROM.
    pub kind: DriveKind,
    /// Its medium.
    pub backend: Arc<dyn BlockBackend>,
    /// Serial number, up to 20 characters.
    pub serial: String,
}

/// A controller to be.
pub struct IdeConfig {
    /// By channel, then drive.
    pub drives: [[Option<DriveConfig>; 2]; 2],
    /// Guest memory.
    pub dma: Dma,
    /// IRQ 14 and IRQ 15.
    pub lines: [IrqLine; 2],
    /// Writes that the kernel has queued.
    pub deferred: Arc<dyn Deferred>,
}

/// Ports at fixed addresses, for the machine to map.
pub struct LegacyPorts {
    /// For statistics, such as `ide0/command`.
    pub name: &'static str,
    /// First port.
    pub base: u16,
    /// Ports.
    pub len: u16,
    /// Who answers.
    pub region: Arc<dyn Region>,
    /// Ways around an exit.
    pub fast_paths: Vec<FastPath>,
}

/// The ISA interrupts of the channels (82371SB §2.3: legacy mode is the only one).
pub const LEGACY_IRQS: [u8; 2] = [14, 15];

const NAMES: [&str; 2] = ["ide0", "ide1"];
const BAR: BarIndex = BarIndex(4);

/// An I/O thread.
struct Worker {
    channel: Arc<Channel>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// The controller. See the [module](super) documentation.
pub struct IdeController {
    config: Mutex<ConfigSpace>,
    pub(super) channels: [Arc<Channel>; 2],
    dma: Dma,
    workers: Mutex<Vec<Worker>>,
}

impl IdeController {
    /// A controller at power-on, its I/O threads not yet started.
    pub fn new(config: IdeConfig) -> io::Result<Self> {
        let IdeConfig {
            drives,
            dma,
            lines,
            deferred,
        } = config;
        let channel = |index: usize, drives: [Option<DriveConfig>; 2], line: IrqLine| {
            let [first, second] = drives;
            let drives = [
                first.map(|d| drive(d, index, 0)),
                second.map(|d| drive(d, index, 1)),
            ];
            let state = State::new(drives, line);
            Channel::new(NAMES[index], state, dma.clone(), deferred.clone()).map(Arc::new)
        };
        let ([first, second], [line_0, line_1]) = (drives, lines);
        let channels = [channel(0, first, line_0)?, channel(1, second, line_1)?];
        Ok(Self {
            config: Mutex::new(config_space()?),
            channels,
            dma,
            workers: Mutex::default(),
        })
    }

    fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an I/O thread for each channel that has a drive. No drive answers a command
    /// that takes time before.
    pub fn start(&self) -> io::Result<()> {
        let mut workers = self.workers();
        if !workers.is_empty() {
            return Ok(());
        }
        for channel in self.channels.iter().filter(|c| c.has_drives()) {
            let stop = Arc::new(AtomicBool::new(false));
            let (served, stopped) = (channel.clone(), stop.clone());
            let thread = std::thread::Builder::new()
                .name(format!("{}-io", channel.name))
                .spawn(move || worker::run(&served, &stopped))?;
            workers.push(Worker {
                channel: channel.clone(),
                stop,
                thread,
            });
        }
        Ok(())
    }

    /// Ends the I/O threads, each after the job it has. Jobs not begun stay.
    pub fn stop(&self) {
        let workers = std::mem::take(&mut *self.workers());
        for worker in &workers {
            worker.stop.store(true, Ordering::Release);
            worker.channel.doorbells.kick();
        }
        for worker in workers {
            if worker.thread.join().is_err() {
                tracing::error!(channel = worker.channel.name, "the I/O thread panicked");
            }
        }
    }

    /// Finishes what goes on and begins nothing new until [`Self::resume`]: on return the
    /// state stands still and no memory is touched. vCPUs are paused before.
    pub fn quiesce(&self) {
        for channel in &self.channels {
            channel.quiesce();
        }
    }

    /// Ends [`Self::quiesce`].
    pub fn resume(&self) {
        for channel in &self.channels {
            channel.resume();
        }
    }

    /// The command and control ports of both channels.
    pub fn legacy_ports(&self) -> [LegacyPorts; 4] {
        let [first, second] = &self.channels;
        let command = |name, base, channel: &Arc<Channel>| LegacyPorts {
            name,
            base,
            len: 8,
            region: Arc::new(CommandBlock(channel.clone())),
            fast_paths: channel.command_block_paths(),
        };
        let control = |name, base, channel: &Arc<Channel>| LegacyPorts {
            name,
            base,
            len: 1,
            region: Arc::new(ControlBlock(channel.clone())),
            fast_paths: Vec::new(),
        };
        [
            command("ide0/command", 0x1f0, first),
            control("ide0/control", 0x3f6, first),
            command("ide1/command", 0x170, second),
            control("ide1/control", 0x376, second),
        ]
    }

    /// Counters by drive, with the drive's name (`ide0.0` to `ide1.1`).
    pub fn statistics(&self) -> Vec<(String, StatisticsSnapshot)> {
        let of = |channel: &Arc<Channel>| {
            let state = channel.lock();
            let drives = state.drives.iter().flatten();
            drives
                .map(|d| (d.name.to_string(), d.statistics.snapshot()))
                .collect::<Vec<_>>()
        };
        self.channels.iter().flat_map(of).collect()
    }

    /// Everything, now.
    pub fn state(&self) -> IdeState {
        let [first, second] = &self.channels;
        IdeState {
            config: self.config().state(),
            channels: [first, second].map(|c| ChannelState::of(&c.lock())),
        }
    }

    /// The legacy ports answer while their channel's IDETIM says so.
    fn follow_decode(&self, config: &ConfigSpace) {
        for (index, channel) in self.channels.iter().enumerate() {
            let timing = config.get_u16(config::IDE_TIMING + 2 * index as u16);
            channel.set_decode(timing & config::DECODE_ENABLE != 0);
        }
    }
}

impl Drop for IdeController {
    fn drop(&mut self) {
        self.stop();
    }
}

/// 82371SB function 1. What firmware would do is done: both channels decode.
fn config_space() -> io::Result<ConfigSpace> {
    let mut space = ConfigSpace::endpoint(Ids {
        vendor: 0x8086,
        device: 0x7010,
        revision: 0,
        class: ClassCode {
            base: 1,
            sub: 1,
            interface: 0x80,
        },
        subsystem_vendor: 0,
        subsystem: 0,
    });
    let length = bus_master_block::LENGTH * 2;
    space
        .set_bar(BAR, BarKind::Io, length)
        .map_err(io::Error::other)?;
    let enabled = u32::from(config::DECODE_ENABLE);
    space.define(config::IDE_TIMING, enabled << 16 | enabled, u32::MAX, 0);
    space.define(config::SECOND_DRIVE_TIMING, 0, 0xff, 0);
    space.define(config::ULTRA_DMA, 0, 0x3333_000f, 0);
    Ok(space)
}

fn drive(config: DriveConfig, channel: usize, position: usize) -> Drive {
    let DriveConfig {
        kind,
        backend,
        serial,
    } = config;
    let model = match kind {
        DriveKind::Disk => "SLUICE DISK",
        DriveKind::Cdrom => "SLUICE CD-ROM",
    };
    let identity = Identity {
        model: model.to_owned(),
        serial,
        firmware: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let model = match kind {
        DriveKind::Disk => Model::Disk(Disk::new(identity, position == 1, &*backend)),
        DriveKind::Cdrom => Model::Cdrom(Cdrom::new(identity, &*backend)),
    };
    let name = format!("{}.{position}", NAMES[channel]).into();
    Drive::new(name, model, backend, Arc::new(Statistics::default()))
}

impl Function for IdeController {
    fn read_config(&self, register: Register) -> u32 {
        self.config().read(register)
    }

    fn write_config(&self, write: ConfigWrite) -> Changes {
        let mut config = self.config();
        let changes = config.write(write);
        if write.register().offset() == config::IDE_TIMING {
            self.follow_decode(&config);
        }
        let master = config.is_bus_master();
        if changes.contains(Changes::BUS_MASTER) {
            self.dma.set_bus_master(master);
        }
        drop(config);
        if changes.contains(Changes::BUS_MASTER) && !master {
            for channel in &self.channels {
                channel.wait_for_batch();
            }
        }
        changes
    }

    fn windows(&self) -> Vec<Window> {
        self.config().windows()
    }

    /// Nothing survives but what is on the media, the counters and the host's handles: config
    /// space, registers, drive settings and the CD-ROM's tray are as at power-on, what was in
    /// flight is dropped and has let go of guest memory.
    fn reset(&self) {
        let mut config = self.config();
        config.reset();
        self.dma.set_bus_master(false);
        self.follow_decode(&config);
        drop(config);
        for channel in &self.channels {
            channel.reset();
        }
    }
}

impl PciDevice for IdeController {
    fn name(&self) -> &str {
        "ide"
    }

    fn region(&self, bar: BarIndex) -> Option<Arc<dyn Region>> {
        (bar == BAR).then(|| Arc::new(BusMasterBar(self.channels.clone())) as _)
    }

    fn fast_paths(&self, bar: BarIndex) -> Vec<FastPath> {
        if bar != BAR {
            return Vec::new();
        }
        let paths = self.channels.iter().enumerate();
        paths
            .flat_map(|(i, c)| c.bus_master_paths(bus_master_block::LENGTH * i as u64))
            .collect()
    }

    fn set_bdf(&self, bdf: Bdf) {
        self.dma.set_bdf(bdf);
    }
}
