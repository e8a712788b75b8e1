//! A TAP device in a network namespace of its own, and the frames on it.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

const NAME: &str = "tap0";
/// `struct virtio_net_hdr` (virtio 1.2 §5.1.6), which the socket puts before each frame.
const HEADER: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;

/// The host's end of a TAP device.
pub struct Tap(OwnedFd);

/// A frame as the host's stack got it.
#[derive(Debug)]
pub struct Frame {
    /// Its bytes, with the checksum that was left to the host filled in.
    pub bytes: Vec<u8>,
    /// The checksum was left to the host.
    pub partial_checksum: bool,
    /// Bytes of payload per segment, if the frame is to be cut by the host.
    pub segment: Option<u16>,
}

/// Runs `test` on a thread in a fresh network namespace with a TAP device in it. Says so
/// and does nothing where that is not permitted.
pub fn with_tap(test: impl FnOnce(&Tap) + Send) {
    let run = || match Tap::create() {
        Ok(tap) => test(&tap),
        Err(why) => eprintln!("skipped: cannot make a TAP device here: {why}"),
    };
    let result = std::thread::scope(|scope| scope.spawn(run).join());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|e| format!("ip: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let failed = || format!("ip {arguments}: {}", said.trim());
    output.status.success().then_some(()).ok_or_else(failed)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

impl Tap {
    fn create() -> Result<Self, String> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| e.to_string())?;
        // So that the host says nothing of its own on the wire.
        let quiet = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
        let _ = std::fs::write(quiet, "1");
        ip(&format!("tuntap add {NAME} mode tap vnet_hdr"))?;
        ip(&format!("link set {NAME} up"))?;
        socket().map(Self).map_err(|e| e.to_string())
    }

    /// As `--net` wants it.
    pub fn flag(&self) -> String {
        format!("tap={NAME},mac=02:00:00:00:00:07")
    }

    /// Sends a frame to the guest.
    pub fn send(&self, frame: &[u8]) {
        let mut bytes = vec![0; HEADER];
        bytes.extend(frame);
        // SAFETY: the pointer and length are those of a live buffer.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(sent, bytes.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame of the guest's with this EtherType.
    pub fn receive(&self, ether_type: u16, within: Duration) -> Option<Frame> {
        let end = Instant::now() + within;
        let mut buffer = vec![0; 1 << 17];
        while Instant::now() < end {
            // SAFETY: the pointer and length are those of a live buffer.
            let got = unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                )
            };
            let Ok(got) = usize::try_from(got) else {
                continue;
            };
            let Some((header, bytes)) = buffer[..got].split_at_checked(HEADER) else {
                continue;
            };
            if bytes.get(12..14) == Some(&ether_type.to_be_bytes()) {
                return Some(Frame::new(header, bytes));
            }
        }
        None
    }
}

impl Frame {
    fn new(header: &[u8], bytes: &[u8]) -> Self {
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let mut bytes = bytes.to_vec();
        let partial_checksum = header[0] & NEEDS_CHECKSUM != 0;
        if partial_checksum {
            let (start, offset) = (usize::from(word(6)), usize::from(word(8)));
            let sum = checksum(&bytes[start..]);
            bytes[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        }
        Self {
            bytes,
            partial_checksum,
            segment: (header[1] != 0).then(|| word(4)),
        }
    }
}

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A packet socket on the TAP, with virtio headers and a time limit for receiving.
fn socket() -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, protocol.into()) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let on: libc::c_int = 1;
    let limit = libc::timeval {
        tv_sec: 0,
        tv_usec: 20_000,
    };
    option(&fd, libc::SOL_PACKET, PACKET_VNET_HDR, &on)?;
    option(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &on)?;
    option(&fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &limit)?;
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = if_nametoindex(NAME)?.cast_signed();
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer and length are those of a live sockaddr_ll.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(fd)
}

// linux/if_packet.h.
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

fn option<T>(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    let value: *const T = value;
    // SAFETY: the pointer and length are those of a live value.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.cast(), len) })?;
    Ok(())
}
