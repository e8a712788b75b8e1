//! Backends whose other end is in this process: for tests, and for wiring two VMs together.

use std::io;
use std::os::unix::net::{UnixDatagram, UnixStream};

use super::{Passt, Tap};

/// A [`Tap`] whose other end is a socket: each datagram is a virtio-net header of ten bytes
/// and a frame, just as a process finds them at `/dev/net/tun`.
pub fn tap_pair() -> io::Result<(Tap, UnixDatagram)> {
    let (ours, theirs) = UnixDatagram::pair()?;
    ours.set_nonblocking(true)?;
    Ok((Tap::from_descriptor("channel", ours.into()), theirs))
}

/// A [`Passt`] whose other end is a socket: a stream of frames, each after its length in
/// four big-endian bytes.
pub fn stream_pair() -> io::Result<(Passt, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    Ok((Passt::from_stream(ours)?, theirs))
}
