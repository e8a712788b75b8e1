//! A TAP device of the host (Linux `Documentation/networking/tuntap.rst`), with a
//! virtio-net header (virtio 1.2 §5.1.6) before each frame so that checksums and
//! segmentation are the host's work.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use super::iov;
use super::offload::{self, PartialChecksum, SegmentKind, Segments};
use super::{NetBackend, Packet, Received, Sent};
use whole::Whole;

mod whole;

/// Why a TAP could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Not a name the kernel takes.
    #[error("TAP '{0}': an interface name has 1 to 15 characters, no '/' and no space")]
    Name(String),
    /// No interface of that name.
    #[error("TAP '{0}' does not exist; make it with: ip tuntap add {0} mode tap user $USER")]
    Missing(String),
    /// The interface is something else.
    #[error("'{0}' is not a TAP device; make one with: ip tuntap add NAME mode tap user $USER")]
    NotTap(String),
    /// The kernel has no TUN/TAP driver here.
    #[error("TAP '{0}': there is no /dev/net/tun; load it with: modprobe tun")]
    NoDriver(String),
    /// Not ours.
    #[error(
        "TAP '{0}': permission denied; make it yours with: \
         ip tuntap add {0} mode tap user $USER, and let yourself open /dev/net/tun"
    )]
    Denied(String),
    /// Somebody else has it open.
    #[error("TAP '{0}' is in use by another process")]
    Busy(String),
    /// Anything else.
    #[error("TAP '{name}': {step}")]
    Other {
        /// The interface.
        name: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// An open TAP device.
pub struct Tap {
    name: String,
    /// `None` once the device is gone.
    fd: Option<OwnedFd>,
    /// Where a packet is finished that a virtio-net header cannot describe.
    scratch: Vec<u8>,
    /// What was read last.
    whole: Whole,
}

mod ioctl {
    nix::ioctl_write_int!(set_iff, b'T', 202);
    nix::ioctl_write_int!(set_offload, b'T', 208);
    nix::ioctl_write_ptr!(set_vnet_header_size, b'T', 216, libc::c_int);
}

/// `TUN_F_CSUM`: the reader takes frames whose checksum is still to be filled in.
const TUN_F_CSUM: libc::c_ulong = 1;
/// `TUN_F_TSO4`, `TUN_F_TSO6` and `TUN_F_TSO_ECN`: it takes TCP packets yet to be cut.
/// Nothing else is asked for, so nothing else comes: see [`whole`].
const TUN_F_TSO: libc::c_ulong = 2 | 4 | 8;
/// Size of the header we ask for: without `num_buffers`.
const HEADER: usize = 10;

impl Tap {
    /// Opens the TAP device `name`, which must exist: one that Sluice made up would have no
    /// address, no bridge, and nobody who knows of it.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let owned = || name.to_owned();
        if name.is_empty()
            || name.len() >= libc::IFNAMSIZ
            || name == "."
            || name == ".."
            || !name
                .bytes()
                .all(|b| b.is_ascii_graphic() && b != b'/' && b != b'%')
        {
            return Err(TapError::Name(owned()));
        }
        if nix::net::if_::if_nametoindex(name).is_err() {
            return Err(TapError::Missing(owned()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|e| match e.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDriver(owned()),
                Some(libc::EACCES | libc::EPERM) => TapError::Denied(owned()),
                _ => other(name, "opening /dev/net/tun", e),
            })?;
        attach(&file, name)?;
        Ok(Self::from_descriptor(name, file.into()))
    }

    /// A TAP over a descriptor that is already attached, non-blocking, and whose virtio-net
    /// headers have ten bytes.
    pub fn from_descriptor(name: &str, fd: OwnedFd) -> Self {
        Self {
            name: name.to_owned(),
            fd: Some(fd),
            scratch: Vec::new(),
            whole: Whole::new(),
        }
    }

    /// Writes one frame with its header.
    fn write(&self, header: &[u8; HEADER], packet: &Packet<'_>) -> io::Result<usize> {
        match &self.fd {
            Some(fd) => iov::write(fd.as_fd(), [header, packet.head], packet.body),
            None => Ok(0),
        }
    }

    /// Finishes a packet that the kernel cannot, and sends what comes of it. These frames
    /// are rare and are not retried when there is no room.
    fn send_finished(&mut self, packet: &Packet<'_>) -> Sent {
        let mut scratch = std::mem::take(&mut self.scratch);
        offload::finish(packet, &mut scratch, |frame| {
            if let Some(fd) = &self.fd {
                let _ = iov::write(fd.as_fd(), [&[0; HEADER], frame], &[]);
            }
        });
        self.scratch = scratch;
        Sent::Done
    }

    /// The other end is gone for good: somebody removed the device.
    fn lose(&mut self, error: &io::Error) {
        tracing::warn!("TAP '{}' is gone ({error}); its NIC has no link", self.name);
        self.fd = None;
    }
}

impl NetBackend for Tap {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    fn link(&self) -> bool {
        self.fd.is_some()
    }

    fn send(&mut self, packet: &Packet<'_>) -> Sent {
        let Some(header) = encode(packet) else {
            return self.send_finished(packet);
        };
        match self.write(&header, packet) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Sent::Full,
            Err(e) if e.raw_os_error() == Some(libc::EBADFD) => {
                self.lose(&e);
                Sent::Done
            }
            // Not up (EIO), not a frame (EINVAL), no memory: a wire would lose it too.
            _ => Sent::Done,
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Received {
        if let Some(len) = self.whole.next(buffer) {
            let verified = true;
            return Received::Frame { len, verified };
        }
        let mut header = [0; HEADER];
        loop {
            let Some(fd) = &self.fd else {
                return Received::Nothing;
            };
            match iov::read(fd.as_fd(), &mut header, self.whole.buffer()) {
                Ok(got) if got > HEADER => {
                    let first = self.whole.first(&header, got - HEADER, buffer);
                    if let Some((len, verified)) = first {
                        return Received::Frame { len, verified };
                    }
                }
                // A socket's other end that closed reads as empty; a TAP never does.
                Ok(0) => self.lose(&io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Received::Nothing,
                Err(e) => self.lose(&e),
            }
        }
    }
}

fn attach(file: &File, name: &str) -> Result<(), TapError> {
    let fd = file.as_raw_fd();
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    // A device made for several queues can only be opened as such.
    let attached = match set_iff(fd, name, flags) {
        Err(Errno::EINVAL) => set_iff(fd, name, flags | libc::IFF_MULTI_QUEUE),
        attached => attached,
    };
    attached.map_err(|e| match e {
        Errno::EPERM | Errno::EACCES => TapError::Denied(name.to_owned()),
        Errno::EBUSY | Errno::E2BIG => TapError::Busy(name.to_owned()),
        Errno::EINVAL => TapError::NotTap(name.to_owned()),
        e => other(name, "attaching to it", e.into()),
    })?;
    let size = HEADER as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ takes a pointer to an int, which outlives the call.
    unsafe { ioctl::set_vnet_header_size(fd, &raw const size) }
        .map_err(|e| other(name, "setting the size of packet headers", e.into()))?;
    // SAFETY: TUNSETOFFLOAD takes a plain number.
    unsafe { ioctl::set_offload(fd, TUN_F_CSUM | TUN_F_TSO) }
        .map_err(|e| other(name, "setting what it offloads", e.into()))?;
    Ok(())
}

fn set_iff(fd: libc::c_int, name: &str, flags: libc::c_int) -> nix::Result<libc::c_int> {
    // SAFETY: an all-zero `ifreq` is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF takes a pointer to an `ifreq`, which outlives the call.
    unsafe { ioctl::set_iff(fd, &raw mut request as libc::c_ulong) }
}

fn other(name: &str, step: &'static str, source: io::Error) -> TapError {
    TapError::Other {
        name: name.to_owned(),
        step,
        source,
    }
}

/// The virtio-net header of a packet; `None` if it cannot say what is left to be done, or
/// if the packet is in more pieces than one call takes.
fn encode(packet: &Packet<'_>) -> Option<[u8; HEADER]> {
    if packet.body.len() + 2 > iov::MAX {
        return None;
    }
    let mut header = [0; HEADER];
    let offload = packet.offload;
    if let Some(sum) = offload.checksum {
        if sum.last.is_some() {
            return None;
        }
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&sum.start.to_le_bytes());
        header[8..10].copy_from_slice(&sum.field.checked_sub(sum.start)?.to_le_bytes());
    }
    if let Some(segments) = offload.segments {
        header[1] = gso(segments, offload.checksum, packet.len())?;
        header[2..4].copy_from_slice(&segments.header.to_le_bytes());
        header[4..6].copy_from_slice(&segments.mss.to_le_bytes());
    }
    Some(header)
}

/// The kernel segments TCP whose checksum is where TCP has it, in packets that are
/// themselves IP packets, so no longer than 64 KiB.
fn gso(segments: Segments, checksum: Option<PartialChecksum>, len: usize) -> Option<u8> {
    let checksum = checksum?;
    let whole = len.checked_sub(usize::from(segments.l3))? <= usize::from(u16::MAX);
    let tcp = checksum.start == segments.l4 && checksum.field == segments.l4.checked_add(16)?;
    if !whole || !tcp || !segments.is_sound() {
        return None;
    }
    match segments.kind {
        SegmentKind::Tcp4 => Some(GSO_TCPV4),
        SegmentKind::Tcp6 => Some(GSO_TCPV6),
        SegmentKind::Udp4 | SegmentKind::Udp6 => None,
    }
}

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV4`.
const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`.
const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_ECN`.
const GSO_ECN: u8 = 0x80;

#[cfg(test)]
mod tests;
