//! Where a NIC's frames go: a TAP device of the host, or `passt` for people with no root.
//!
//! A NIC hands over a [`Packet`]: the first bytes, already copied out of guest memory, the
//! rest still in it, and what is left to be done to it ([`Offload`]). A backend that can
//! pass the work on does ([`Tap`], in a virtio-net header); one that cannot finishes the
//! packet itself ([`offload::finish`]). Received frames are always whole: their checksums
//! are in place.

mod channel;
mod checksum;
mod iov;
mod mac;
pub mod offload;
mod passt;
mod tap;

use std::os::fd::BorrowedFd;

use vm_memory::VolatileSlice;

pub use channel::{stream_pair, tap_pair};
pub use checksum::Sum;
pub use mac::{Mac, ParseMacError};
pub use offload::{Offload, PartialChecksum, SegmentKind, Segments};
pub use passt::{Forward, Passt, PasstConfig, PasstError, Protocol};
pub use tap::{Tap, TapError};

/// A frame on its way out.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    /// What is left to be done to it.
    pub offload: Offload,
    /// The first bytes of the frame, in memory the guest cannot reach. Holds every header
    /// that `offload` speaks of when it asks for segments.
    pub head: &'a [u8],
    /// The rest of it, in guest memory. The guest may change it at any time.
    pub body: &'a [VolatileSlice<'a>],
}

impl Packet<'_> {
    /// Length of the frame in bytes, with no frame check sequence.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.iter().map(VolatileSlice::len).sum::<usize>()
    }

    /// True if there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What became of a frame on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It is out of our hands (which on a network is no promise of delivery).
    Done,
    /// There is no room now. Send it again when the descriptor is writable.
    Full,
}

/// What came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// A frame of this many bytes, with no frame check sequence.
    Frame {
        /// Bytes written to the buffer.
        len: usize,
        /// The TCP or UDP checksum is known to be right.
        verified: bool,
    },
    /// Nothing more for now.
    Nothing,
}

/// One end of a wire. Used by one thread; nothing here blocks.
pub trait NetBackend: Send {
    /// What to poll: readable when there may be a frame, writable after [`Sent::Full`].
    /// `None` once the other end is gone for good.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// The wire has someone at its other end.
    fn link(&self) -> bool;

    /// Sends a frame.
    fn send(&mut self, packet: &Packet<'_>) -> Sent;

    /// Takes a frame. One that does not fit into `buffer` is cut off, and its `len` is then
    /// the buffer's, so a caller that must tell keeps a byte more than it accepts.
    fn receive(&mut self, buffer: &mut [u8]) -> Received;

    /// Bytes accepted by [`NetBackend::send`] still wait for room.
    fn has_unsent(&self) -> bool {
        false
    }

    /// Tries again to send what waits.
    fn flush(&mut self) {}
}
