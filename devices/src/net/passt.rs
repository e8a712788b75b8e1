//! A network for people with no root: `passt` turns frames into sockets of its own
//! (passt(1)). It runs as a child; frames go over a stream socket, each after its length in
//! four big-endian bytes.

mod process;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::{NetBackend, Packet, Received, Sent, iov, offload};

use process::Child;
pub use process::{Forward, PasstConfig, PasstError, Protocol};

/// `passt`, or whatever speaks its protocol at the other end of a stream.
pub struct Passt {
    /// `None` once the other end is gone.
    stream: Option<UnixStream>,
    /// Frames accepted but not yet written, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    /// Bytes read but not yet handed over: `inbox[taken..filled]`.
    inbox: Box<[u8]>,
    taken: usize,
    filled: usize,
    scratch: Vec<u8>,
    child: Option<Child>,
}

/// Length prefix of a frame.
const PREFIX: usize = 4;
/// The longest frame either end may send.
const MAX_FRAME: usize = 65535 + 18;
/// Holds several frames, so that one read brings many.
const INBOX: usize = 2 * (PREFIX + MAX_FRAME);

impl Passt {
    /// Starts `passt` and waits until it runs or says why it cannot.
    pub fn start(config: &PasstConfig) -> Result<Self, PasstError> {
        let (child, stream) = Child::start(config)?;
        let mut passt = Self::from_stream(stream).map_err(PasstError::Socket)?;
        passt.child = Some(child);
        Ok(passt)
    }

    /// Speaks `passt`'s protocol over a connected stream.
    pub fn from_stream(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: Some(stream),
            unsent: Vec::new(),
            sent: 0,
            inbox: vec![0; INBOX].into_boxed_slice(),
            taken: 0,
            filled: 0,
            scratch: Vec::new(),
            child: None,
        })
    }

    fn lose(&mut self, why: &str) {
        if self.stream.take().is_none() {
            return;
        }
        match self.child.as_mut().and_then(Child::last_words) {
            Some(words) => tracing::warn!("passt ended ({words}); its NIC has no link"),
            None => tracing::warn!("passt ended ({why}); its NIC has no link"),
        }
        self.unsent.clear();
        self.sent = 0;
    }

    /// Writes a frame that needs no work straight from guest memory; false if it has to go
    /// the long way.
    fn send_direct(&mut self, packet: &Packet<'_>) -> Option<Sent> {
        if packet.offload != offload::Offload::default() || packet.body.len() + 2 > iov::MAX {
            return None;
        }
        let stream = self.stream.as_ref()?;
        let len = packet.len();
        let prefix = u32::try_from(len).ok()?.to_be_bytes();
        let wrote = match iov::write(stream.as_fd(), [&prefix, packet.head], packet.body) {
            Ok(wrote) => wrote,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Some(Sent::Full),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => {
                self.lose(&e.to_string());
                return Some(Sent::Done);
            }
        };
        if wrote < PREFIX + len {
            self.keep_rest(prefix, packet, wrote);
        }
        Some(Sent::Done)
    }

    /// Keeps what the socket had no room for: half a frame cannot be taken back.
    fn keep_rest(&mut self, prefix: [u8; PREFIX], packet: &Packet<'_>, wrote: usize) {
        self.unsent.clear();
        self.unsent.extend_from_slice(&prefix);
        self.unsent.extend_from_slice(packet.head);
        for piece in packet.body {
            offload::append(&mut self.unsent, piece);
        }
        self.sent = wrote;
    }

    /// Reads more into the inbox; false when there is nothing.
    fn fill(&mut self) -> bool {
        self.inbox.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        loop {
            let Some(stream) = &mut self.stream else {
                return false;
            };
            match stream.read(&mut self.inbox[self.filled..]) {
                Ok(0) => {
                    self.lose("it closed the connection");
                    return false;
                }
                Ok(got) => {
                    self.filled += got;
                    return true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) => {
                    self.lose(&e.to_string());
                    return false;
                }
            }
        }
    }

    /// The next whole frame in the inbox.
    fn next(&mut self) -> Option<std::ops::Range<usize>> {
        let waiting = &self.inbox[self.taken..self.filled];
        let (prefix, rest) = waiting.split_first_chunk::<PREFIX>()?;
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > MAX_FRAME {
            self.lose("it sent a frame of impossible length");
            self.taken = self.filled;
            return None;
        }
        if rest.len() < len {
            return None;
        }
        let start = self.taken + PREFIX;
        self.taken = start + len;
        Some(start..start + len)
    }
}

impl NetBackend for Passt {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }

    fn link(&self) -> bool {
        self.stream.is_some()
    }

    fn send(&mut self, packet: &Packet<'_>) -> Sent {
        self.flush();
        if self.stream.is_none() {
            return Sent::Done;
        }
        if self.has_unsent() {
            return Sent::Full;
        }
        let packet = &Packet {
            head: match packet.body {
                [] => without_padding(packet.head),
                _ => packet.head,
            },
            ..*packet
        };
        if let Some(sent) = self.send_direct(packet) {
            return sent;
        }
        let (mut scratch, out) = (std::mem::take(&mut self.scratch), &mut self.unsent);
        offload::finish(packet, &mut scratch, |frame| {
            out.extend_from_slice(&(frame.len() as u32).to_be_bytes());
            out.extend_from_slice(frame);
        });
        self.scratch = scratch;
        self.flush();
        Sent::Done
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Received {
        loop {
            if let Some(frame) = self.next() {
                let len = frame.len().min(buffer.len());
                buffer[..len].copy_from_slice(&self.inbox[frame][..len]);
                let verified = false;
                return Received::Frame { len, verified };
            }
            if !self.fill() {
                return Received::Nothing;
            }
        }
    }

    fn has_unsent(&self) -> bool {
        self.sent < self.unsent.len()
    }

    fn flush(&mut self) {
        while self.has_unsent() {
            let Some(stream) = &mut self.stream else {
                return;
            };
            match stream.write(&self.unsent[self.sent..]) {
                Ok(wrote) => self.sent += wrote,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => return self.lose(&e.to_string()),
            }
        }
        self.unsent.clear();
        self.sent = 0;
    }
}

/// A short IPv4 frame without what was added to make it long enough for a wire.
///
/// passt takes the length of the frame for the packet's, so that padding would become data of
/// the TCP stream: the last acknowledgement of a handshake would be lost (version of 2023-03).
fn without_padding(frame: &[u8]) -> &[u8] {
    const HEADER: usize = 14;
    match frame {
        [
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            0x08,
            0x00,
            _,
            _,
            high,
            low,
            ..,
        ] => {
            let total = usize::from(u16::from_be_bytes([*high, *low]));
            &frame[..frame.len().min(HEADER + total.max(20))]
        }
        _ => frame,
    }
}

#[cfg(test)]
mod tests;
