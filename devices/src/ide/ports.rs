//! How the guest reaches a channel: its regions, its doorbells, and the lock behind them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::channel::{Activity, State};
use super::doorbell::{Bell, Doorbells};
use super::registers::{DeviceControl, bus_master_block, command_block, opcode};
use crate::bus::{Deferred, FastPath, Region};
use crate::dma::Dma;

/// Attempts to take doorbells in order before taking them in whatever order. Only a guest
/// whose vCPUs race each other on one channel needs more than two.
const ATTEMPTS: usize = 16;

/// A channel with its lock and its events.
pub struct Channel {
    /// `ide0` or `ide1`.
    pub name: &'static str,
    /// Guest memory.
    pub dma: Dma,
    /// What rings.
    pub doorbells: Doorbells,
    deferred: Arc<dyn Deferred>,
    state: Mutex<State>,
    /// Signalled when `moving` or `working` ends.
    settled: Condvar,
    /// Counts takings of doorbells, under the lock.
    takings: AtomicU64,
}

impl Channel {
    /// A channel around its state.
    pub fn new(
        name: &'static str,
        state: State,
        dma: Dma,
        deferred: Arc<dyn Deferred>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            name,
            dma,
            doorbells: Doorbells::new()?,
            deferred,
            state: Mutex::new(state),
            settled: Condvar::new(),
            takings: AtomicU64::new(0),
        })
    }

    /// The state, as of now; doorbells that ring are not in it.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is anything on the cable.
    pub fn has_drives(&self) -> bool {
        self.lock().drives.iter().any(Option::is_some)
    }

    /// Says that `moving` or `working` has ended.
    pub fn settled(&self) {
        self.settled.notify_all();
    }

    fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        condition: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'a, State> {
        self.settled
            .wait_while(state, condition)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the I/O thread has let go of guest memory: at most one batch.
    fn wait_still<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.wait_while(state, |s| s.moving)
    }

    /// Ends whatever goes on; on return nothing of it reaches guest memory any more.
    fn cancel<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.drop_activity();
        self.wait_still(state)
    }

    /// Hands out queued writes. No lock is held.
    pub fn flush_deferred(&self) {
        self.deferred.flush();
    }

    /// Takes every doorbell rung before this call, each after the queued writes that the
    /// guest made before it. True if the I/O thread has to look: there is something for it, or
    /// it has to wait for commands from now on.
    ///
    /// What rings is looked at first, then queued writes are handed out, then what was seen
    /// ringing is taken; if another thread took any in between, what rings now may be newer
    /// than the writes handed out, so it begins again.
    pub fn take_doorbells(&self) -> bool {
        for attempt in 1..=ATTEMPTS {
            let takings = self.takings.load(Ordering::Acquire);
            let rung = self.doorbells.rung();
            if rung.is_empty() {
                return false;
            }
            self.deferred.flush();
            let mut state = self.lock();
            if self.takings.load(Ordering::Acquire) != takings && attempt < ATTEMPTS {
                continue;
            }
            self.takings.fetch_add(1, Ordering::AcqRel);
            let started = state.command.start();
            for bell in self.doorbells.take(rung) {
                match bell {
                    Bell::Command(opcode) if state.decode => state.issue(opcode),
                    Bell::Command(_) => {}
                    Bell::Start(value) => {
                        state.write_bus_master_command(value);
                    }
                }
            }
            return state.is_runnable() || !started && state.command.start();
        }
        false
    }

    /// As [`Self::take_doorbells`], for a thread that is not the I/O thread.
    fn catch_up(&self) {
        if self.take_doorbells() {
            self.doorbells.kick();
        }
    }

    /// Wakes the I/O thread if there is something for it.
    fn release(&self, state: MutexGuard<'_, State>) {
        let runnable = state.is_runnable();
        drop(state);
        if runnable {
            self.doorbells.kick();
        }
    }

    fn write_command(&self, code: u8) {
        self.catch_up();
        let mut state = self.lock();
        // DEVICE RESET is the one command that a busy packet device takes.
        let packet = state.drives[state.selected]
            .as_ref()
            .is_some_and(|d| d.is_packet());
        if code == opcode::DEVICE_RESET && packet && !state.control.reset() {
            state = self.cancel(state);
        }
        state.issue(code);
        self.release(state);
    }

    fn write_control(&self, value: u8) {
        self.catch_up();
        let mut state = self.lock();
        let before = state.control.reset();
        state.write_control(value);
        if DeviceControl(value).reset() && !before {
            state = self.cancel(state);
            state.soft_reset();
        }
        self.release(state);
    }

    fn write_bus_master(&self, offset: u64, value: u8) {
        let mut state = self.lock();
        match offset {
            bus_master_block::COMMAND => {
                let started = state.command.start();
                if state.write_bus_master_command(value) {
                    state = self.wait_still(state);
                }
                if !started && state.command.start() {
                    // The I/O thread now waits for commands too.
                    self.doorbells.kick();
                }
            }
            bus_master_block::STATUS => state.write_bus_master_status(value),
            byte @ bus_master_block::TABLE..bus_master_block::LENGTH => {
                state.write_table((byte - bus_master_block::TABLE) as u32, value);
            }
            _ => {}
        }
        self.release(state);
    }

    fn read_bus_master(&self, offset: u64) -> u8 {
        let state = self.lock();
        match offset {
            bus_master_block::COMMAND => state.command.0,
            bus_master_block::STATUS => state.bus_master.0,
            byte @ bus_master_block::TABLE..bus_master_block::LENGTH => {
                state.table.to_le_bytes()[(byte - bus_master_block::TABLE) as usize & 3]
            }
            _ => 0,
        }
    }

    /// Whether the legacy ports answer (IDETIM bit 15).
    pub fn set_decode(&self, on: bool) {
        self.lock().decode = on;
    }

    /// Hardware reset: as at power-on, and nothing in flight reaches memory any more.
    pub fn reset(&self) {
        self.catch_up();
        let mut state = self.cancel(self.lock());
        state.power_on();
    }

    /// Lets a transfer that goes on end its batch, when the function may no longer be a bus
    /// master.
    pub fn wait_for_batch(&self) {
        drop(self.wait_still(self.lock()));
    }

    /// Takes what rings, finishes what goes on and begins nothing new.
    pub fn quiesce(&self) {
        self.catch_up();
        let mut state = self.lock();
        state.paused = true;
        drop(self.wait_while(state, |s| s.working));
    }

    /// Ends [`Self::quiesce`].
    pub fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        self.release(state);
    }

    /// Ways into the command block that spare an exit. Doorbells come first: a value that
    /// has one must not be queued.
    pub fn command_block_paths(&self) -> Vec<FastPath> {
        if !self.has_drives() {
            return Vec::new();
        }
        let mut paths = self.doorbells.command_paths();
        paths.push(FastPath::Coalesced {
            offset: command_block::ERROR_FEATURES,
            len: command_block::STATUS_COMMAND - command_block::ERROR_FEATURES,
        });
        paths
    }

    /// Ways into the bus master registers at `base` of BAR 4.
    pub fn bus_master_paths(&self, base: u64) -> Vec<FastPath> {
        if !self.has_drives() {
            return Vec::new();
        }
        let mut paths = self.doorbells.start_paths(base);
        paths.push(FastPath::Coalesced {
            offset: base,
            len: bus_master_block::LENGTH,
        });
        paths
    }
}

/// The eight ports of the command block.
pub struct CommandBlock(pub Arc<Channel>);

impl Region for CommandBlock {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset == command_block::DATA {
            let mut state = self.0.lock();
            if !state.decode {
                return data.fill(0xff);
            }
            state.read_data(data);
            return self.0.release(state);
        }
        self.0.catch_up();
        for (at, byte) in (offset..).zip(data) {
            let mut state = self.0.lock();
            *byte = match at {
                _ if !state.decode => 0xff,
                command_block::ERROR_FEATURES..=command_block::STATUS_COMMAND => {
                    state.read_register(at)
                }
                _ => 0xff,
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == command_block::DATA {
            let mut state = self.0.lock();
            if state.decode {
                state.write_data(data);
            }
            return self.0.release(state);
        }
        for (at, byte) in (offset..).zip(data) {
            if !self.0.lock().decode {
                return;
            }
            match at {
                command_block::STATUS_COMMAND => self.0.write_command(*byte),
                _ => self.0.lock().write_register(at, *byte),
            }
        }
    }

    /// Words of the data port are one stream, taken under one lock.
    fn read_string(&self, offset: u64, width: usize, data: &mut [u8]) {
        for items in data.chunks_mut(at_once(offset, width, data.len())) {
            self.read(offset, items);
        }
    }

    fn write_string(&self, offset: u64, width: usize, data: &[u8]) {
        for items in data.chunks(at_once(offset, width, data.len())) {
            self.write(offset, items);
        }
    }
}

/// How many bytes of a string of `len` go at once. A byte of the data port stands for a
/// word, so single bytes do not stream.
fn at_once(offset: u64, width: usize, len: usize) -> usize {
    let stream = offset == command_block::DATA && width.is_multiple_of(2);
    if stream { len } else { width }.max(1)
}

/// The control block: the one port with Alternate Status and Device Control.
pub struct ControlBlock(pub Arc<Channel>);

impl Region for ControlBlock {
    fn read(&self, _: u64, data: &mut [u8]) {
        self.0.catch_up();
        let state = self.0.lock();
        let status = if state.decode {
            state.alternate_status()
        } else {
            0xff
        };
        data.fill(0xff);
        if let Some(first) = data.first_mut() {
            *first = status;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, Some(value)) = (offset, data.first())
            && self.0.lock().decode
        {
            self.0.write_control(*value);
        }
    }
}

/// BAR 4: the bus master registers of both channels.
pub struct BusMasterBar(pub [Arc<Channel>; 2]);

impl BusMasterBar {
    fn place(&self, at: u64) -> Option<(&Channel, u64)> {
        let channel = self.0.get((at / bus_master_block::LENGTH) as usize)?;
        Some((channel, at % bus_master_block::LENGTH))
    }
}

impl Region for BusMasterBar {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((channel, _)) = self.place(offset) {
            channel.catch_up();
        }
        for (at, byte) in (offset..).zip(data) {
            *byte = match self.place(at) {
                Some((channel, register)) => channel.read_bus_master(register),
                None => 0xff,
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            if let Some((channel, register)) = self.place(at) {
                channel.write_bus_master(register, *byte);
            }
        }
    }
}

/// A view of the activity, for [`super::state`].
pub fn activity_name(activity: &Activity) -> &'static str {
    match activity {
        Activity::Idle => "idle",
        Activity::PioIn(_) => "data in",
        Activity::PioOut(_) => "data out",
        Activity::Dma(_) => "waiting for the bus master",
        Activity::Queued(_) | Activity::InFlight => "working",
    }
}
