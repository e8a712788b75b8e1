//! The PCI hierarchy in the guest's address spaces: the two config mechanisms, and the
//! BARs wherever the guest puts them.
//!
//! Every config write says what it changed; [`PciRoot::settle`] is the one place that
//! applies it, by comparing what is decoded now with what is installed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwap;
use devices::bus::{FastPath, FastPathWatcher, Mapping, PciDevice, Region};
use devices::guest_error;
use pci::{
    Bdf, BusAt, Changes, ConfigWrite, Decoded, Ecam, FunctionId, Hierarchy, HostBridge,
    InterruptPin, NoRoom, Space, Topology, TopologyError, Windows, Written,
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::bus::Overlap;
use super::installer::{Installed, Installer, Placement};

/// The ports of the config mechanism, and of the reset control register among them.
pub const CONFIG_PORTS: u64 = 0xcf8;
const CONFIG_PORTS_SIZE: u64 = 8;

/// Changes after which what is decoded may differ.
const MOVES: Changes = Changes::DECODE
    .union(Changes::BUS_NUMBERS)
    .union(Changes::POWER)
    .union(Changes::ECAM);

/// Someone else who acts on changes: the chipset, with its windows and its routing.
pub trait Follower: Send + Sync {
    /// Something of this kind changed.
    fn follow(&self, changes: Changes);
}

/// True if all of a decoded range lies where BARs may be.
fn allowed(windows: &Windows, decoded: &Decoded) -> bool {
    let window = &decoded.window;
    let Some(last) = window.base.checked_add(window.size - 1) else {
        return false;
    };
    match window.space {
        Space::Io => last <= 0xffff,
        Space::Memory => [&windows.memory32, &windows.memory64]
            .iter()
            .any(|range| range.contains(&window.base) && range.contains(&last)),
    }
}

/// What is installed.
#[derive(Default)]
struct Live {
    /// By function, window and where in the BAR the window starts.
    bars: BTreeMap<(FunctionId, pci::Window, u64), Installed>,
    ecam: Option<(Ecam, Installed)>,
    config_ports: Option<Installed>,
}

/// The hierarchy.
pub struct PciRoot {
    /// Changed, when something is plugged in or out, under the lock of `live`.
    topology: ArcSwap<Topology<dyn PciDevice>>,
    host_bridge: Arc<HostBridge>,
    installer: Installer,
    windows: OnceLock<Windows>,
    follower: OnceLock<Weak<dyn Follower>>,
    live: Mutex<Live>,
}

impl PciRoot {
    /// A hierarchy of which nothing is installed yet.
    pub fn new(
        topology: Topology<dyn PciDevice>,
        host_bridge: Arc<HostBridge>,
        installer: Installer,
    ) -> Arc<Self> {
        Arc::new(Self {
            topology: ArcSwap::from_pointee(topology),
            host_bridge,
            installer,
            windows: OnceLock::new(),
            follower: OnceLock::new(),
            live: Mutex::default(),
        })
    }

    /// Says where BARs may lie and who else follows changes, and opens the config ports.
    /// `reset_control` answers at CF9h, in the middle of the config ports.
    pub fn open(
        self: &Arc<Self>,
        windows: Windows,
        follower: Weak<dyn Follower>,
        reset_control: Arc<dyn Region>,
    ) -> Result<(), Overlap> {
        let _ = self.windows.set(windows);
        let _ = self.follower.set(follower);
        let ports = ConfigPorts {
            root: Arc::downgrade(self),
            reset_control,
        };
        let installed = self.installer.install(Placement {
            space: Space::Io,
            base: CONFIG_PORTS,
            size: CONFIG_PORTS_SIZE,
            name: "pci/config",
            region: Arc::new(ports),
            fast_paths: Vec::new(),
        })?;
        self.live().config_ports = Some(installed);
        Ok(())
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn topology(&self) -> Arc<Topology<dyn PciDevice>> {
        self.topology.load_full()
    }

    /// Puts functions, each with its number, behind a bridge. Returns their ids, in order.
    pub fn plug(
        self: &Arc<Self>,
        bridge: FunctionId,
        functions: &[(u8, Arc<dyn PciDevice>)],
    ) -> Result<Vec<FunctionId>, TopologyError> {
        let mut ids = Vec::with_capacity(functions.len());
        self.change(|topology| {
            for (number, function) in functions {
                let (at, name) = (BusAt::Behind(bridge), function.name());
                ids.push(topology.attach(at, 0, *number, name, function.clone())?);
            }
            topology.check()
        })?;
        Ok(ids)
    }

    /// Takes everything behind a bridge out of the hierarchy and the guest's address spaces.
    /// A vCPU that was on its way there may still arrive.
    pub fn unplug(self: &Arc<Self>, bridge: FunctionId) {
        let detached = self.change(|topology| {
            topology.detach_behind(bridge);
            Ok(())
        });
        debug_assert!(detached.is_ok());
    }

    fn change(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Topology<dyn PciDevice>) -> Result<(), TopologyError>,
    ) -> Result<(), TopologyError> {
        let live = self.live();
        let mut changed = Topology::clone(&self.topology());
        change(&mut changed)?;
        self.topology.store(Arc::new(changed));
        drop(live);
        self.settle(MOVES);
        Ok(())
    }

    /// The pin of a device on the root bus that a function's INTx comes out at.
    pub fn root_interrupt(
        &self,
        function: FunctionId,
        pin: InterruptPin,
    ) -> Option<(u8, InterruptPin)> {
        self.topology().root_interrupt(function, pin)
    }

    /// The highest number of a bus.
    pub fn last_bus(&self) -> u8 {
        Hierarchy::survey(&*self.topology()).last_bus()
    }

    /// Bytes that the window above RAM must hold, and the largest alignment in it.
    pub fn demand64(&self) -> (u64, u64) {
        Hierarchy::survey(&*self.topology()).demand64()
    }

    /// Power-on state of every function, then what firmware does: every BAR in its place,
    /// and `writes` of the board's own.
    pub fn start(
        self: &Arc<Self>,
        writes: impl IntoIterator<Item = (Bdf, ConfigWrite)>,
    ) -> Result<(), NoRoom> {
        let topology = self.topology();
        topology.reset();
        let placed = match self.windows.get() {
            Some(windows) => Hierarchy::survey(&*topology).place(windows),
            None => Ok(()),
        };
        for (function, write) in writes {
            topology.config_write(function, write);
        }
        self.settle(Changes::all());
        placed
    }

    /// Takes every BAR out of the guest's address spaces.
    pub fn close(&self) {
        *self.live() = Live::default();
    }

    fn written(self: &Arc<Self>, written: Option<Written>) {
        if let Some(Written { changes, .. }) = written
            && !changes.is_empty()
        {
            self.settle(changes);
        }
    }

    /// Applies changes.
    pub fn settle(self: &Arc<Self>, changes: Changes) {
        if changes.intersects(MOVES) {
            // Of two vCPUs that change something, the later one to come here sees both.
            let mut live = self.live();
            if changes.contains(Changes::BUS_NUMBERS) {
                for at in self.topology().functions() {
                    at.function.set_bdf(at.bdf.unwrap_or_default());
                }
            }
            self.settle_ecam(&mut live);
            self.settle_bars(&mut live);
        }
        if let Some(follower) = self.follower.get().and_then(Weak::upgrade) {
            follower.follow(changes);
        }
    }

    fn settle_ecam(self: &Arc<Self>, live: &mut Live) {
        let wanted = self.host_bridge.ecam();
        if live.ecam.as_ref().map(|(ecam, _)| *ecam) == wanted {
            return;
        }
        live.ecam = None;
        let Some(ecam) = wanted else { return };
        let installed = self.installer.install(Placement {
            space: Space::Memory,
            base: ecam.base,
            size: ecam.size,
            name: "pci/ecam",
            region: Arc::new(EcamWindow(Arc::downgrade(self))),
            fast_paths: Vec::new(),
        });
        match installed {
            Ok(installed) => live.ecam = Some((ecam, installed)),
            Err(error) => guest_error!(%error, "the guest moved ECAM where it cannot be"),
        }
    }

    fn settle_bars(&self, live: &mut Live) {
        let Some(windows) = self.windows.get() else {
            return;
        };
        let topology = self.topology();
        let mut wanted: BTreeMap<_, _> = topology
            .decoded()
            .into_iter()
            .filter(|decoded| allowed(windows, decoded))
            .map(|decoded| ((decoded.function, decoded.window, decoded.offset), decoded))
            .collect();
        // Out first: what moves may move onto what leaves.
        live.bars.retain(|key, _| wanted.remove(key).is_some());
        for (key, decoded) in wanted {
            match self.install(&decoded) {
                Ok(Some(installed)) => {
                    live.bars.insert(key, installed);
                }
                Ok(None) => {}
                // The guest's doing, often passing (it sizes or moves BARs): the first stays.
                Err(error) => tracing::debug!(%error, "the guest put a BAR over another"),
            }
        }
        self.refresh(live, Installed::is_incomplete);
    }

    /// Asks every function again for the memory that the guest may reach directly.
    pub fn refresh_mappings(&self) {
        self.refresh(&mut self.live(), |_| true);
    }

    fn refresh(&self, live: &mut Live, wanting: impl Fn(&Installed) -> bool) {
        let topology = self.topology();
        for ((function, window, offset), installed) in &mut live.bars {
            if let Some(device) = topology.function(*function)
                && *offset == 0
                && wanting(installed)
            {
                let paths = fast_paths_within(device.fast_paths(window.bar), window.size);
                installed.set_mappings(paths);
            }
        }
    }

    fn install(&self, decoded: &Decoded) -> Result<Option<Installed>, Overlap> {
        let topology = self.topology();
        let Some(device) = topology.function(decoded.function) else {
            return Ok(None);
        };
        let window = decoded.window;
        let Some(region) = device.region(window.bar) else {
            return Ok(None);
        };
        let name = format!("{}/bar{}", device.name(), window.bar.0);
        let (region, fast_paths) = if decoded.offset == 0 {
            (
                region,
                fast_paths_within(device.fast_paths(window.bar), window.size),
            )
        } else {
            let part = Part {
                region,
                offset: decoded.offset,
            };
            (Arc::new(part) as Arc<dyn Region>, Vec::new())
        };
        let placement = Placement {
            space: window.space,
            base: window.base,
            size: window.size,
            name: &name,
            region,
            fast_paths,
        };
        self.installer.install(placement).map(Some)
    }
}

/// Notes that a function's mappings changed, for the main thread.
pub struct FastPathChanges(EventFd);

impl FastPathChanges {
    /// Nothing changed yet.
    pub fn new() -> std::io::Result<Self> {
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map(Self)
    }

    /// Readable when something changed.
    pub fn event(&self) -> &EventFd {
        &self.0
    }

    /// Takes note that it is seen to.
    pub fn take(&self) {
        let _ = self.0.read();
    }
}

impl FastPathWatcher for FastPathChanges {
    fn fast_paths_changed(&self) {
        // Fails only when full, and then it is readable anyway.
        let _ = self.0.write(1);
    }
}

/// Fast paths that lie wholly in the first `size` bytes of a BAR, and of memory the part that
/// does: a bridge may forward less than the BAR, or the guest have made it smaller.
fn fast_paths_within(paths: Vec<FastPath>, size: u64) -> Vec<FastPath> {
    let within = |path| {
        let (offset, len) = match &path {
            FastPath::Doorbell { offset, len, .. } => (*offset, u64::from((*len).max(1))),
            FastPath::Coalesced { offset, len } => (*offset, *len),
            FastPath::Mapped { offset, memory } => (*offset, memory.len() as u64),
        };
        if offset.checked_add(len).is_some_and(|end| end <= size) {
            return Some(path);
        }
        let FastPath::Mapped { offset, memory } = path else {
            return None;
        };
        let room = size.checked_sub(offset)?;
        let len = (room - room % PAGE) as usize;
        let memory = Arc::new(Beginning { memory, len });
        (len > 0).then_some(FastPath::Mapped { offset, memory })
    };
    paths.into_iter().filter_map(within).collect()
}

/// The grain of memory.
const PAGE: u64 = 4096;

/// The first `len` bytes of a mapping.
struct Beginning {
    memory: Arc<dyn Mapping>,
    len: usize,
}

impl Mapping for Beginning {
    fn host_address(&self) -> usize {
        self.memory.host_address()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn writable(&self) -> bool {
        self.memory.writable()
    }

    fn is_device(&self) -> bool {
        self.memory.is_device()
    }
}

/// A BAR whose bridge forwards only what lies behind `offset`.
struct Part {
    region: Arc<dyn Region>,
    offset: u64,
}

impl Region for Part {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.region.read(self.offset + offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.region.write(self.offset + offset, data);
    }
}

/// Ports CF8h to CFFh.
struct ConfigPorts {
    root: Weak<PciRoot>,
    reset_control: Arc<dyn Region>,
}

/// The reset control register's offset from CF8h.
const RESET_CONTROL: u64 = 1;

impl Region for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let Some(root) = self.root.upgrade() else {
            return data.fill(0xff);
        };
        if root
            .topology
            .load()
            .port_read((CONFIG_PORTS + offset) as u16, data)
            .is_ok()
        {
            return;
        }
        data.fill(0xff);
        if offset == RESET_CONTROL {
            self.reset_control.read(0, &mut data[..1]);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(root) = self.root.upgrade() else {
            return;
        };
        match root
            .topology
            .load()
            .port_write((CONFIG_PORTS + offset) as u16, data)
        {
            Ok(written) => root.written(written),
            Err(_) if offset == RESET_CONTROL => self.reset_control.write(0, &data[..1]),
            Err(_) => {}
        }
    }
}

/// ECAM (PCIe 6.0 §7.2.2).
struct EcamWindow(Weak<PciRoot>);

impl Region for EcamWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.0.upgrade() {
            Some(root) => root.topology.load().ecam_read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(root) = self.0.upgrade() else { return };
        for written in root.topology.load().ecam_write(offset, data) {
            root.written(Some(written));
        }
    }
}

#[cfg(test)]
mod tests;
