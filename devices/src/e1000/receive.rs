//! The receive side: frames in, descriptors out (8254x SDM §3.2).
//!
//! A frame is read into a buffer of the NIC's, judged, and copied once to where the guest
//! wants it. When there are not enough buffers for it, it is kept, and nothing more is
//! read from the backend until there are: the wire waits instead of losing packets, so RXO
//! is only reported for a packet that no number of posted buffers would ever hold.
//! A receiver that is off or has no link does not read either.
//!
//! Where the guest wants the frame check sequence (SECRC clear) it gets four zero bytes:
//! what drivers do with it is to cut it off.

use super::descriptors::{ReadAhead, ReceiveStatus, Ring, SIZE};
use super::filter::Match;
use super::nic::{Nic, Outcome};
use super::packet::{self, Verdict};
use super::registers::{Cause, ReceiveControl};
use crate::dma::DmaError;
use crate::net::{Mac, NetBackend, Received, Sum};

/// Frames received before other work has its turn.
const BATCH: usize = 64;
/// The longest packet with LPE, and without (§13.4.22), frame check sequence included.
const LONGEST: usize = 16384;
const USUAL: usize = 1522;
/// The shortest frame on the wire, without its frame check sequence.
const SHORTEST: usize = 60;
/// Frame check sequence.
const FCS: usize = 4;
/// Length of a VLAN tag.
const TAG: usize = 4;

/// What reception remembers from frame to frame.
pub struct Receiver {
    /// Room for the longest frame and then some, so that a longer one shows.
    buffer: Box<[u8; LONGEST + 64]>,
    /// A frame in `buffer` that is not delivered yet.
    held: Option<Held>,
    ahead: ReadAhead,
}

#[derive(Clone, Copy)]
struct Held {
    /// Where it starts in the buffer, once a tag was taken out of it.
    start: usize,
    end: usize,
    /// The tag that was.
    tag: Option<u16>,
    /// Its TCP or UDP checksum is known to be right.
    verified: bool,
    /// It was looked at before, and had to wait.
    waited: bool,
}

/// A frame that the filters let through.
struct Accepted {
    start: usize,
    /// Bytes for the guest.
    len: usize,
    status: ReceiveStatus,
    ring: Ring,
    buffer_bytes: usize,
}

impl Receiver {
    /// As after a reset.
    pub fn new() -> Self {
        Self {
            buffer: Box::new([0; LONGEST + 64]),
            held: None,
            ahead: ReadAhead::new(),
        }
    }

    /// CTRL.RST and other resets.
    pub fn reset(&mut self) {
        self.held = None;
        self.ahead.forget();
    }

    /// Receives what is there, up to a batch.
    pub(super) fn run(&mut self, nic: &Nic, backend: &mut dyn NetBackend) -> Outcome {
        self.ahead.forget();
        for _ in 0..BATCH {
            if nic.is_held() {
                return Outcome::More;
            }
            if !nic.receive_ready() {
                return Outcome::Full;
            }
            if self.held.is_none() {
                let Received::Frame { len, verified } = backend.receive(&mut self.buffer[..])
                else {
                    return Outcome::Idle;
                };
                self.hold(len, verified);
            }
            if !self.deliver(nic) {
                return Outcome::Full;
            }
        }
        Outcome::More
    }

    /// Delivers a frame that the NIC sent to itself; it is lost if there is no room.
    pub(super) fn loop_back(&mut self, nic: &Nic, frame: &[u8]) {
        if self.held.is_some() || !nic.receive_ready() {
            return;
        }
        let len = frame.len().min(self.buffer.len());
        self.buffer[..len].copy_from_slice(&frame[..len]);
        self.hold(len, false);
        self.deliver(nic);
        self.held = None;
    }

    fn hold(&mut self, len: usize, verified: bool) {
        // A runt is padded, as its sender's NIC would have.
        if len < SHORTEST {
            self.buffer[len..SHORTEST].fill(0);
        }
        self.held = Some(Held {
            start: 0,
            end: len.max(SHORTEST),
            tag: None,
            verified,
            waited: false,
        });
    }

    /// Delivers or drops the frame held; false if it has to wait for buffers.
    fn deliver(&mut self, nic: &Nic) -> bool {
        let Some(held) = self.held.take() else {
            return true;
        };
        let held = match held.waited {
            true => held,
            false => self.arrive(nic, held),
        };
        let Some(accepted) = self.judge(nic, held) else {
            return true;
        };
        let needed = accepted.len.div_ceil(accepted.buffer_bytes).max(1) as u32;
        if needed >= accepted.ring.count() {
            nic.overrun();
            return true;
        }
        let waiting = Some(Held {
            waited: true,
            ..held
        });
        if needed > accepted.ring.available() {
            if !held.waited {
                nic.registers().statistics.no_buffers();
            }
            self.held = waiting;
            return nic.has_buffers(needed);
        }
        match self.store(nic, &accepted, needed) {
            Ok(()) => true,
            Err(DmaError::NotMaster) => {
                self.held = waiting;
                false
            }
            Err(error) => {
                nic.receive_failed(error);
                false
            }
        }
    }

    /// Counts a frame and takes out its VLAN tag (§9.1).
    fn arrive(&mut self, nic: &Nic, mut held: Held) -> Held {
        let mut registers = nic.registers();
        registers.last_packet = nic.now();
        registers.statistics.seen(held.end + FCS);
        if registers.control.vlan_mode() {
            held.tag = packet::tag(&self.buffer[..held.end], registers.vet);
        }
        if held.tag.is_some() {
            self.buffer.copy_within(..12, TAG);
            held.start = TAG;
        }
        held
    }

    /// Applies length limits and filters, and checks checksums.
    fn judge(&mut self, nic: &Nic, held: Held) -> Option<Accepted> {
        let frame = &self.buffer[held.start..held.end];
        let mut registers = nic.registers();
        let rctl = registers.rctl;
        let limit = if rctl.long_packets() { LONGEST } else { USUAL };
        if held.end + FCS > limit {
            registers.statistics.oversize();
            registers.traffic.unwanted += 1;
            return None;
        }
        let Some(how) = registers.filter.accepts(rctl, frame, held.tag) else {
            registers.traffic.unwanted += 1;
            return None;
        };
        let (ring, rxcsum) = (registers.rx, registers.rxcsum);
        drop(registers);
        let mut status = ReceiveStatus(0);
        status.set_inexact(how == Match::Inexact);
        status.set_vlan(held.tag.is_some());
        status.set_special(held.tag.unwrap_or(0));
        set_verdict(&mut status, packet::check(frame, rxcsum, held.verified));
        let mut sum = Sum::default();
        sum.add(frame.get(usize::from(rxcsum.start())..).unwrap_or_default());
        status.set_checksum(sum.value());
        let mut len = held.end - held.start;
        if !rctl.strip_crc() {
            self.buffer[held.end..held.end + FCS].fill(0);
            len += FCS;
        }
        Some(Accepted {
            start: held.start,
            len,
            status,
            ring,
            buffer_bytes: rctl.buffer_bytes(),
        })
    }

    /// Writes a frame to its buffers, then the descriptors, then tells.
    fn store(&mut self, nic: &Nic, accepted: &Accepted, needed: u32) -> Result<(), DmaError> {
        let ring = &accepted.ring;
        let frame = &self.buffer[accepted.start..accepted.start + accepted.len];
        let mut status = accepted.status;
        status.set_done(true);
        for (n, piece) in frame.chunks(accepted.buffer_bytes).enumerate() {
            let n = n as u32;
            let index = ring.after(ring.head(), n);
            let left = ring.available().saturating_sub(n);
            let address = self.ahead.get(&nic.dma, ring, index, left)? as u64;
            match nic.dma.write(address, piece) {
                Err(DmaError::NotMaster) => return Err(DmaError::NotMaster),
                Err(error) => {
                    nic.malformed(&format_args!("a receive buffer: {error}"));
                    status.set_data_error(true);
                }
                Ok(()) => {}
            }
            status.set_length(piece.len() as u16);
            status.set_end(n + 1 == needed);
            let upper = ring.address(index).wrapping_add(SIZE / 2);
            nic.dma.write_obj(upper, &status.0.to_le())?;
        }
        let destination = Mac(*frame.first_chunk().unwrap_or(&[0; 6]));
        nic.received(destination, accepted.len, needed);
        Ok(())
    }
}

fn set_verdict(status: &mut ReceiveStatus, verdict: Verdict) {
    status.set_ip_checked(verdict.ip.is_some());
    status.set_ip_error(verdict.ip == Some(false));
    status.set_l4_checked(verdict.l4.is_some());
    status.set_l4_error(verdict.l4 == Some(false));
    status.set_ignore_checksums(verdict == Verdict::default());
}

/// Causes of a packet that took `taken` buffers of `ring`, which is as it was before.
pub(super) fn threshold_cause(ring: &Ring, rctl: ReceiveControl, taken: u32) -> Cause {
    let (before, threshold) = (ring.available(), ring.threshold(rctl));
    let reached = before > threshold && before.saturating_sub(taken) <= threshold;
    if reached {
        Cause::RXDMT0
    } else {
        Cause::empty()
    }
}
