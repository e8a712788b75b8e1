//! Raw Ethernet frames on an interface of the emulated host's, past its network stack.

use crate::error::{Context, Result, fail};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A station's address.
pub type Mac = [u8; 6];

/// The longest frame there is without jumbo ones.
const LONGEST: usize = 1514;
/// So that a burst waits here while something else has the processor.
const BUFFERED: usize = 4 << 20;

/// An interface's end of the wire, open from now on.
pub struct Wire {
    socket: OwnedFd,
    /// The interface's own address.
    pub mac: Mac,
}

impl Wire {
    /// Listens on an interface.
    pub fn of(interface: &str) -> Result<Self> {
        let link = getifaddrs()
            .context("the host's interfaces")?
            .filter(|one| one.interface_name == interface)
            .find_map(|one| one.address?.as_link_addr().copied());
        let Some((link, mac)) = link.and_then(|link| Some((link, link.addr()?))) else {
            return fail(format!("{interface} has no address"));
        };
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .context("a packet socket")?;
        bind(socket.as_raw_fd(), &link).context(interface)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFERED).context(interface)?;
        let a_while = TimeVal::milliseconds(50);
        setsockopt(&socket, sockopt::ReceiveTimeout, &a_while).context(interface)?;
        Ok(Self { socket, mac })
    }

    /// Sends a frame out of the interface.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("sending a frame")? {
            sent if sent == frame.len() => Ok(()),
            sent => fail(format!("sent {sent} of {} bytes", frame.len())),
        }
    }

    /// The next frame from this station, with this type, unless none comes in time.
    pub fn next_from(&self, from: Mac, kind: u16, patience: Duration) -> Result<Option<Vec<u8>>> {
        let start = Instant::now();
        let mut frame = [0; LONGEST];
        while start.elapsed() < patience {
            match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) if is_of(&frame[..length], from, kind) => {
                    return Ok(Some(frame[..length].to_vec()));
                }
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error).context("receiving a frame"),
            }
        }
        Ok(None)
    }
}

/// The bytes of a frame.
pub fn frame(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// An address in the usual notation.
pub fn parse_mac(text: &str) -> Result<Mac> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    match bytes.map(Mac::try_from) {
        Some(Ok(mac)) => Ok(mac),
        _ => fail(format!("{text} is no MAC address")),
    }
}

/// The usual notation of an address.
pub fn show_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn is_of(frame: &[u8], from: Mac, kind: u16) -> bool {
    frame.get(6..14) == Some(&[&from[..], &kind.to_be_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Mac = [2, 0, 0, 0, 0, 1];
    const FROM: Mac = [2, 0, 0, 0, 0xa, 0xbc];

    #[test]
    fn frames_are_known_by_sender_and_type() {
        let frame = frame(TO, FROM, 0x88b5, b"x");
        assert!(is_of(&frame, FROM, 0x88b5));
        assert!(!is_of(&frame, FROM, 0x0800));
        assert!(!is_of(&frame, TO, 0x88b5));
        assert!(!is_of(&frame[..13], FROM, 0x88b5));
    }

    #[test]
    fn addresses_are_read_and_shown() {
        assert_eq!(show_mac(FROM), "02:00:00:00:0a:bc");
        assert_eq!(parse_mac("02:00:00:00:0a:bc").unwrap(), FROM);
        assert!(parse_mac("02:00:00:00:0a").is_err());
        assert!(parse_mac("02:00:00:00:0a:xy").is_err());
    }
}
