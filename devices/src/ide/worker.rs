//! A channel's I/O thread: takes jobs, moves bytes between medium and memory, reports back.
//!
//! The lock is never held over I/O. A job that was cancelled meanwhile (its generation is no
//! longer the channel's) is dropped without a trace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iommu::Access;
use vm_memory::VolatileSlice;

use super::channel::{CHUNK, State};
use super::command::{Direction, DmaCommand, Extent, Job, Payload, Pio, Purpose};
use super::ports::Channel;
use super::prd::{PrdWalk, REQUEST};
use super::statistics::Statistics;
use crate::block::{BlockBackend, Failure, SECTOR};
use crate::dma::DmaError;
use crate::guest_error;

/// Bytes moved between two looks at whether the guest has stopped the transfer.
const BATCH: u64 = 1 << 20;
/// Pieces of memory in a batch, give or take those of one region.
const PIECES: usize = 256;

/// Serves a channel until `stop` is set and its thread is kicked.
pub fn run(channel: &Channel, stop: &AtomicBool) {
    let mut worker = Worker::new(channel);
    while !stop.load(Ordering::Acquire) {
        worker.turn();
        let started = channel.lock().command.start();
        channel.doorbells.wait(started);
    }
}

/// What a job belongs to.
struct Ticket {
    generation: u64,
    starts: u64,
    table: u32,
    drive: Arc<str>,
    backend: Arc<dyn BlockBackend>,
    statistics: Arc<Statistics>,
}

/// Why a batch of a DMA did not do.
enum Trouble {
    /// Memory could not be reached.
    Memory(DmaError),
    /// The medium failed.
    Medium(Direction, Failure),
}

pub struct Worker<'a> {
    channel: &'a Channel,
    /// Guest memory of the present batch.
    pieces: Vec<VolatileSlice<'a>>,
}

impl<'a> Worker<'a> {
    /// What a channel's I/O thread is made of.
    pub fn new(channel: &'a Channel) -> Self {
        Self {
            channel,
            pieces: Vec::with_capacity(PIECES),
        }
    }

    /// Does what there is to do.
    pub fn turn(&mut self) {
        self.channel.take_doorbells();
        while let Some((ticket, job)) = self.take() {
            self.perform(&ticket, job);
        }
    }

    fn take(&self) -> Option<(Ticket, Job)> {
        let mut state = self.channel.lock();
        let job = state.take_job()?;
        let Some(drive) = &state.drives[state.owner & 1] else {
            state.working = false;
            state.moving = false;
            return None;
        };
        let ticket = Ticket {
            generation: state.generation,
            starts: state.starts,
            table: state.table,
            drive: drive.name.clone(),
            backend: drive.backend.clone(),
            statistics: drive.statistics.clone(),
        };
        Some((ticket, job))
    }

    fn perform(&mut self, ticket: &Ticket, job: Job) {
        match job {
            Job::Fill(pio) => self.fill(ticket, pio),
            Job::Drain(pio) => self.drain(ticket, pio),
            Job::Verify(extent) => self.verify(ticket, extent),
            Job::Flush => {
                let flushed = ticket.flush();
                self.report(ticket, |state| match flushed {
                    Ok(()) => state.complete(),
                    Err(()) => state.fail_media(Direction::Out, None),
                });
            }
            Job::Dma(command) => self.dma(ticket, command),
            Job::Trim(bytes) => self.trim(ticket, &bytes),
        }
    }

    /// Ends a job. `result` is told to the channel if the job still counts.
    fn report(&self, ticket: &Ticket, result: impl FnOnce(&mut State)) {
        let mut state = self.channel.lock();
        state.moving = false;
        state.working = false;
        if state.generation == ticket.generation {
            result(&mut state);
        }
        drop(state);
        self.channel.settled();
    }

    fn is_cancelled(&self, ticket: &Ticket) -> bool {
        self.channel.lock().generation != ticket.generation
    }

    fn fill(&self, ticket: &Ticket, mut pio: Pio) {
        let Purpose::Contents(mut extent) = pio.purpose else {
            return self.report(ticket, |_| {});
        };
        pio.buffer.resize(extent.left.min(CHUNK) as usize, 0);
        pio.position = 0;
        let done = ticket.read(&[pio.buffer.as_mut_slice().into()], extent.offset);
        self.report(ticket, |state| match done {
            Ok(()) => {
                extent.advance(pio.buffer.len() as u64);
                pio.purpose = Purpose::Contents(extent);
                state.offer(pio);
            }
            Err(failure) => {
                state.fail_media(Direction::In, Some((&extent, extent.offset + failure.done)));
                state.recycle(pio.buffer);
            }
        });
    }

    fn drain(&self, ticket: &Ticket, mut pio: Pio) {
        let Purpose::Contents(mut extent) = pio.purpose else {
            return self.report(ticket, |_| {});
        };
        let begin = extent.offset;
        let mut done = ticket.write(&[pio.buffer.as_mut_slice().into()], begin);
        extent.advance(pio.buffer.len() as u64);
        if extent.durable && extent.left == 0 && done.is_ok() {
            done = ticket.flush().map_err(|()| 0);
        }
        self.report(ticket, |state| match done {
            Ok(()) if extent.left > 0 => {
                pio.position = 0;
                pio.purpose = Purpose::Contents(extent);
                state.accept(pio, true);
            }
            Ok(()) => {
                state.show_end(&extent);
                state.recycle(pio.buffer);
                state.complete();
            }
            Err(done) => {
                state.fail_media(Direction::Out, Some((&extent, begin + done)));
                state.recycle(pio.buffer);
            }
        });
    }

    fn verify(&self, ticket: &Ticket, mut extent: Extent) {
        let mut scratch = vec![0; CHUNK.min(extent.left) as usize];
        while extent.left > 0 && !self.is_cancelled(ticket) {
            let len = scratch.len().min(extent.left as usize);
            if let Err(failure) = ticket.read(&[(&mut scratch[..len]).into()], extent.offset) {
                return self.report(ticket, |state| {
                    let byte = extent.offset + failure.done;
                    state.fail_media(Direction::In, Some((&extent, byte)));
                });
            }
            extent.advance(len as u64);
        }
        self.report(ticket, |state| {
            state.show_end(&extent);
            state.complete();
        });
    }

    fn trim(&self, ticket: &Ticket, payload: &[u8]) {
        let done = trim(ticket, payload);
        self.report(ticket, |state| match done {
            Ok(()) => state.complete(),
            Err(()) => state.fail_media(Direction::Out, None),
        });
    }

    /// Moves data until the command or the descriptor table ends, or the guest stops it.
    fn dma(&mut self, ticket: &Ticket, mut command: DmaCommand) {
        let mut walk = PrdWalk::new(ticket.table);
        loop {
            let moved = self.batch(ticket, &mut command, &mut walk);
            let trouble = match moved {
                Ok(_) if command.left() == 0 => return self.end_dma(ticket, command, &walk),
                // A batch that came to nothing: the table ended before the data.
                Ok(0) => return self.suspend(ticket, command, false),
                Ok(_) => None,
                Err(trouble) => Some(trouble),
            };
            if let Some(trouble) = trouble {
                return self.fail_dma(ticket, &command, trouble);
            }
            // Let go of memory for a moment: whoever waits to stop us can, and a stop that
            // waits in the queue of deferred writes gets here.
            self.channel.lock().moving = false;
            self.channel.settled();
            self.channel.flush_deferred();
            let mut state = self.channel.lock();
            let same_run = state.bus_master.active() && state.starts == ticket.starts;
            if state.generation != ticket.generation || !same_run {
                drop(state);
                return self.suspend(ticket, command, true);
            }
            state.moving = true;
        }
    }

    /// Moves up to [`BATCH`] bytes; returns how many.
    fn batch(
        &mut self,
        ticket: &Ticket,
        command: &mut DmaCommand,
        walk: &mut PrdWalk,
    ) -> Result<u64, Trouble> {
        let (want, access) = (command.left().min(BATCH), access(command.direction));
        self.pieces.clear();
        let dma = &self.channel.dma;
        let under_way = dma.begin();
        match walk.collect(dma, &under_way, want, access, PIECES, &mut self.pieces) {
            Ok(moved) => {
                ticket.exchange(command, &self.pieces)?;
                Ok(moved)
            }
            Err(DmaError::Interrupts(_)) => self.request_interrupt(ticket, command, walk),
            Err(error) => Err(Trouble::Memory(error)),
        }
    }

    /// A batch that does not go to memory: what the drive gives is taken for interrupt requests.
    #[cold]
    fn request_interrupt(
        &self,
        ticket: &Ticket,
        command: &mut DmaCommand,
        walk: &mut PrdWalk,
    ) -> Result<u64, Trouble> {
        let (address, len) = walk.next_request(command.left());
        let mut request = [0; REQUEST];
        let request = &mut request[..len];
        ticket.exchange(command, &[(&mut *request).into()])?;
        let sent = self.channel.dma.write(address, request);
        sent.map_err(Trouble::Memory)?;
        Ok(len as u64)
    }

    /// Every byte is where it should be.
    fn end_dma(&self, ticket: &Ticket, command: DmaCommand, walk: &PrdWalk) {
        // Active goes off only if the table ended together with the data (BMIDE §3.1).
        let spent = walk.is_spent();
        let result = match (&command.payload, command.direction) {
            (Payload::Medium(extent), _) if extent.durable => ticket.flush(),
            (Payload::Buffer { bytes, .. }, Direction::Out) => trim(ticket, bytes),
            _ => Ok(()),
        };
        self.report(ticket, |state| {
            if spent && state.starts == ticket.starts {
                state.bus_master.set_active(false);
            }
            if let Payload::Medium(extent) = &command.payload {
                state.show_end(extent);
            }
            match result {
                Ok(()) => state.complete(),
                Err(()) => state.fail_media(Direction::Out, None),
            }
        });
    }

    /// Leaves the rest of the command for the next start: the guest has stopped it, or the
    /// descriptor table was too short, which the status tells by "not active, no interrupt".
    fn suspend(&self, ticket: &Ticket, command: DmaCommand, stopped: bool) {
        self.report(ticket, |state| {
            if !stopped && state.starts == ticket.starts {
                state.bus_master.set_active(false);
            }
            state.await_bus_master(command);
        });
        // It may have been started again meanwhile.
        self.channel.doorbells.kick();
    }

    fn fail_dma(&self, ticket: &Ticket, command: &DmaCommand, trouble: Trouble) {
        if let Trouble::Memory(error) = &trouble {
            guest_error!(drive = %ticket.drive, %error, "a DMA of the IDE controller failed");
        }
        self.report(ticket, |state| match (trouble, &command.payload) {
            (Trouble::Medium(direction, failure), Payload::Medium(extent)) => {
                let byte = extent.offset + failure.done;
                state.fail_media(direction, Some((extent, byte)));
            }
            _ => {
                state.bus_master.set_error(true);
                state.bus_master.set_active(false);
                // A real drive would wait for ever; this one ends the command, so that the
                // guest need not time out.
                state.fail_media(command.direction, None);
            }
        });
    }
}

fn access(direction: Direction) -> Access {
    match direction {
        Direction::In => Access::Write,
        Direction::Out => Access::Read,
    }
}

/// Discards the ranges of a payload: 48 bits of LBA and 16 of length each (ACS-2 §7.10.3.2).
fn trim(ticket: &Ticket, payload: &[u8]) -> Result<(), ()> {
    let capacity = ticket.backend.len() / SECTOR;
    let ranges = payload.as_chunks::<8>().0.iter().map(|entry| {
        let entry = u64::from_le_bytes(*entry);
        (entry & 0xffff_ffff_ffff, entry >> 48)
    });
    if ranges
        .clone()
        .any(|(lba, sectors)| sectors > 0 && lba + sectors > capacity)
    {
        return Err(());
    }
    for (lba, sectors) in ranges.filter(|(_, sectors)| *sectors > 0) {
        if let Err(error) = ticket.backend.discard(lba * SECTOR, sectors * SECTOR) {
            guest_error!(drive = %ticket.drive, lba, sectors, %error, "discard failed");
            return Err(());
        }
        ticket.statistics.bytes_discarded.add(sectors * SECTOR);
    }
    Ok(())
}

impl Ticket {
    /// Moves the next bytes of a command between the drive and `pieces`, which are no more than
    /// are left.
    fn exchange(
        &self,
        command: &mut DmaCommand,
        pieces: &[VolatileSlice<'_>],
    ) -> Result<(), Trouble> {
        let direction = command.direction;
        match &mut command.payload {
            Payload::Medium(extent) => {
                let result = match direction {
                    Direction::In => self.read(pieces, extent.offset),
                    Direction::Out => self.write(pieces, extent.offset).map_err(|done| Failure {
                        done,
                        source: std::io::ErrorKind::Other.into(),
                    }),
                };
                result.map_err(|failure| Trouble::Medium(direction, failure))?;
                extent.advance(length(pieces));
            }
            Payload::Buffer { bytes, done } => {
                for piece in pieces {
                    let part = &mut bytes[*done..*done + piece.len()];
                    match direction {
                        Direction::In => piece.copy_from(part),
                        Direction::Out => {
                            piece.copy_to(part);
                        }
                    }
                    *done += piece.len();
                }
            }
        }
        Ok(())
    }

    fn read(&self, pieces: &[VolatileSlice<'_>], offset: u64) -> Result<(), Failure> {
        let done = self.backend.read_vectored_at(pieces, offset);
        match &done {
            Ok(()) => {
                self.statistics.reads.add(1);
                self.statistics.bytes_read.add(length(pieces));
            }
            Err(failure) => {
                let (drive, error) = (&self.drive, &failure.source);
                let byte = offset + failure.done;
                guest_error!(%drive, byte, %error, "the image cannot be read");
            }
        }
        done
    }

    /// On failure says how many bytes were written.
    fn write(&self, pieces: &[VolatileSlice<'_>], offset: u64) -> Result<(), u64> {
        match self.backend.write_vectored_at(pieces, offset) {
            Ok(()) => {
                self.statistics.writes.add(1);
                self.statistics.bytes_written.add(length(pieces));
                Ok(())
            }
            Err(failure) => {
                let (drive, error) = (&self.drive, &failure.source);
                let byte = offset + failure.done;
                guest_error!(%drive, byte, %error, "the image cannot be written");
                Err(failure.done)
            }
        }
    }

    fn flush(&self) -> Result<(), ()> {
        self.statistics.flushes.add(1);
        self.backend.flush().map_err(|error| {
            let drive = &self.drive;
            guest_error!(%drive, %error, "the image cannot be flushed; writes may be lost");
        })
    }
}

fn length(pieces: &[VolatileSlice<'_>]) -> u64 {
    pieces.iter().map(|p| p.len() as u64).sum()
}
