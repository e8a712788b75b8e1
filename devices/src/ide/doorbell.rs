//! Writes that arrive as a signalled event and not as an exit.
//!
//! See the module documentation of [`super`] for the order that is kept.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::registers::{bus_master_block, command_block, opcode};
use crate::bus::FastPath;

/// A register write that has a doorbell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bell {
    /// This opcode to Command.
    Command(u8),
    /// This value, with the start bit, to Bus Master Command.
    Start(u8),
}

/// In the order in which those rung at once are taken: a command, then its start.
const BELLS: [Bell; 6] = [
    Bell::Command(opcode::READ_DMA),
    Bell::Command(opcode::READ_DMA_EXT),
    Bell::Command(opcode::WRITE_DMA),
    Bell::Command(opcode::WRITE_DMA_EXT),
    Bell::Start(0x09),
    Bell::Start(0x01),
];

/// Says to stop waiting.
const KICK: u64 = u64::MAX;

/// Which bells ring: bit n for the nth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rung(u8);

impl Rung {
    /// None.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A channel's doorbells, and the event that wakes its I/O thread for anything else.
pub struct Doorbells {
    events: [Arc<EventFd>; BELLS.len()],
    kick: EventFd,
    /// All bells: for a look at what rings.
    bells: Epoll,
    /// What the I/O thread waits for while the bus master is stopped. A command alone makes
    /// no work then, so it does not wake the thread; the vCPU's next read takes it.
    stopped: Epoll,
    /// What it waits for while the bus master is started: all.
    started: Epoll,
}

impl Doorbells {
    /// New events, none signalled.
    pub fn new() -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let (bells, stopped, started) = (Epoll::new()?, Epoll::new()?, Epoll::new()?);
        let watch = |epoll: &Epoll, event: &EventFd, data| {
            let interest = EpollEvent::new(EventSet::IN, data);
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), interest)
        };
        let kick = event()?;
        watch(&stopped, &kick, KICK)?;
        watch(&started, &kick, KICK)?;
        let mut events = Vec::with_capacity(BELLS.len());
        for (index, bell) in BELLS.iter().enumerate() {
            let event = Arc::new(event()?);
            watch(&bells, &event, index as u64)?;
            watch(&started, &event, index as u64)?;
            if matches!(bell, Bell::Start(_)) {
                watch(&stopped, &event, index as u64)?;
            }
            events.push(event);
        }
        let events = events
            .try_into()
            .map_err(|_| io::Error::from(io::ErrorKind::Other))?;
        Ok(Self {
            events,
            kick,
            bells,
            stopped,
            started,
        })
    }

    /// Which bells ring now. Takes none.
    pub fn rung(&self) -> Rung {
        let mut ready = [EpollEvent::default(); BELLS.len()];
        let count = self.bells.wait(0, &mut ready).unwrap_or(0);
        let bits = ready[..count].iter().map(|e| 1u8 << (e.data() & 7));
        Rung(bits.fold(0, |all, bit| all | bit))
    }

    /// Takes those of `rung` that still ring.
    pub fn take(&self, rung: Rung) -> impl Iterator<Item = Bell> {
        BELLS
            .iter()
            .zip(&self.events)
            .enumerate()
            .filter(move |(index, (_, event))| rung.0 & 1 << index != 0 && event.read().is_ok())
            .map(|(_, (bell, _))| *bell)
    }

    /// Wakes the I/O thread.
    pub fn kick(&self) {
        // Fails only if the counter is full, and then the thread wakes anyway.
        let _ = self.kick.write(1);
    }

    /// Sleeps until there may be something to do.
    pub fn wait(&self, started: bool) {
        let epoll = if started {
            &self.started
        } else {
            &self.stopped
        };
        let mut ready = [EpollEvent::default(); 1];
        // An interrupted wait is a spurious wakeup, which does no harm.
        let _ = epoll.wait(-1, &mut ready);
        let _ = self.kick.read();
    }

    /// Fast paths into the command block.
    pub fn command_paths(&self) -> Vec<FastPath> {
        self.paths(|bell| match bell {
            Bell::Command(opcode) => Some((command_block::STATUS_COMMAND, opcode)),
            Bell::Start(_) => None,
        })
    }

    /// Fast paths into the bus master registers, which begin at `base`.
    pub fn start_paths(&self, base: u64) -> Vec<FastPath> {
        self.paths(|bell| match bell {
            Bell::Command(_) => None,
            Bell::Start(value) => Some((base + bus_master_block::COMMAND, value)),
        })
    }

    fn paths(&self, place: impl Fn(Bell) -> Option<(u64, u8)>) -> Vec<FastPath> {
        BELLS
            .iter()
            .zip(&self.events)
            .filter_map(|(bell, event)| {
                let (offset, value) = place(*bell)?;
                Some(FastPath::Doorbell {
                    offset,
                    len: 1,
                    value: Some(u64::from(value)),
                    event: event.clone(),
                })
            })
            .collect()
    }
}
