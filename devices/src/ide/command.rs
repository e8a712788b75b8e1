//! What a command turns into: data to move, work for the I/O thread, or an answer.

use super::registers::ErrorBits;
use super::task_file::Addressing;

/// Which way data goes, as the guest sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the drive.
    In,
    /// To the drive.
    Out,
}

/// A stretch of the medium that a command has yet to move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub left: u64,
    /// Bytes in a DRQ block at most, even and not zero.
    pub block: usize,
    /// How a disk's command named it; `None` for a packet command.
    pub addressing: Option<Addressing>,
    /// Completes only when it is on stable storage.
    pub durable: bool,
}

impl Extent {
    /// Takes the first `bytes` off.
    pub fn advance(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.offset += bytes;
        self.left -= bytes;
    }
}

/// What a programmed transfer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A disk's information, such as IDENTIFY DEVICE: over when read.
    Information,
    /// Contents, or a packet command's answer (an empty extent behind a filled buffer).
    Contents(Extent),
    /// The guest gives a command packet.
    Packet,
}

/// A programmed transfer: a buffer that moves through the data register block by block.
#[derive(Debug)]
pub struct Pio {
    /// The bytes at hand.
    pub buffer: Vec<u8>,
    /// How far the guest has come.
    pub position: usize,
    /// Where the present DRQ block ends.
    pub block_end: usize,
    /// What for.
    pub purpose: Purpose,
}

impl Pio {
    /// A transfer of a buffer, at its start.
    pub fn new(buffer: Vec<u8>, purpose: Purpose) -> Self {
        Self {
            buffer,
            position: 0,
            block_end: 0,
            purpose,
        }
    }

    /// Opens the next DRQ block of what is in the buffer; its length.
    pub fn next_block(&mut self) -> usize {
        let most = match self.purpose {
            Purpose::Contents(extent) => extent.block,
            Purpose::Information | Purpose::Packet => usize::MAX,
        };
        let len = (self.buffer.len() - self.position).min(most);
        self.block_end = self.position + len;
        len
    }
}

/// What a DMA moves, besides memory.
#[derive(Debug)]
pub enum Payload {
    /// The medium.
    Medium(Extent),
    /// A buffer of the drive's: a packet command's answer, a list of ranges to trim.
    Buffer {
        /// The bytes.
        bytes: Vec<u8>,
        /// How many have been moved.
        done: usize,
    },
}

/// A command that moves data through the bus master.
#[derive(Debug)]
pub struct DmaCommand {
    /// Which way.
    pub direction: Direction,
    /// What.
    pub payload: Payload,
}

impl DmaCommand {
    /// Bytes yet to move.
    pub fn left(&self) -> u64 {
        match &self.payload {
            Payload::Medium(extent) => extent.left,
            Payload::Buffer { bytes, done } => (bytes.len() - done) as u64,
        }
    }
}

/// Work for the channel's I/O thread. The drive is BSY meanwhile.
#[derive(Debug)]
pub enum Job {
    /// Fill the buffer from the medium.
    Fill(Pio),
    /// Write the buffer to the medium.
    Drain(Pio),
    /// Read and forget.
    Verify(Extent),
    /// Put everything on stable storage.
    Flush,
    /// Move data between medium and memory.
    Dma(DmaCommand),
    /// Discard the ranges in a DATA SET MANAGEMENT payload.
    Trim(Vec<u8>),
}

/// What a drive makes of an opcode.
#[derive(Debug)]
pub enum Action {
    /// Done, with an interrupt.
    Done,
    /// Done without one (DEVICE RESET).
    Quiet,
    /// Ends in error, with an interrupt.
    Fail(ErrorBits),
    /// Data for the guest, by PIO.
    Give(Vec<u8>),
    /// Sectors to the guest, by PIO.
    Read(Extent),
    /// Sectors from the guest, by PIO.
    Write(Extent),
    /// Data through the bus master.
    Dma(DmaCommand),
    /// Something that takes time.
    Work(Job),
    /// The guest is to give a packet.
    AwaitPacket,
    /// EXECUTE DEVICE DIAGNOSTIC, which is for both drives.
    Diagnose,
}
