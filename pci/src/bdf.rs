//! Where a function sits: bus, device and function numbers (PCIe 6.0 §2.2.6.2).

use std::fmt;
use std::str::FromStr;

/// A bus, device and function number packed as in a Requester ID: bus in bits 15:8,
/// device in 7:3, function in 2:0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
pub struct Bdf(u16);

impl Bdf {
    /// Builds a BDF. `device` is taken modulo 32 and `function` modulo 8, as the fields are
    /// that wide.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | ((device & 0x1f) as u16) << 3 | (function & 7) as u16)
    }

    /// The BDF that a 16-bit Requester ID names.
    pub const fn from_requester_id(id: u16) -> Self {
        Self(id)
    }

    /// The 16-bit Requester ID.
    pub const fn requester_id(self) -> u16 {
        self.0
    }

    /// Bus number.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device number, 0 to 31.
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }

    /// Function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }

    /// Device and function as one byte, `device << 3 | function`.
    pub const fn devfn(self) -> u8 {
        self.0 as u8
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02x}:{:02x}.{}",
            self.bus(),
            self.device(),
            self.function()
        )
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A function of the host's, with its PCI segment (domain): `0000:02:10.0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct HostBdf {
    /// PCI segment group, the "domain" of Linux's sysfs.
    pub segment: u16,
    /// The function in that segment.
    pub bdf: Bdf,
}

impl fmt::Display for HostBdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment, self.bdf)
    }
}

impl fmt::Debug for HostBdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a PCI address; write it as [SEGMENT:]BUS:DEVICE.FUNCTION in hex, such as 0000:02:10.0"
)]
pub struct ParseBdfError(String);

impl FromStr for HostBdf {
    type Err = ParseBdfError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseBdfError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<HostBdf> {
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (segment, bus) = rest.split_once(':').unwrap_or(("0", rest));
    let segment = hex(segment, 4)? as u16;
    let (bus, device, function) = (hex(bus, 2)?, hex(device, 2)?, hex(function, 1)?);
    (device < 32 && function < 8).then(|| HostBdf {
        segment,
        bdf: Bdf::new(bus as u8, device as u8, function as u8),
    })
}

fn hex(text: &str, digits: usize) -> Option<u32> {
    let plain =
        !text.is_empty() && text.len() <= digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_as_a_requester_id() {
        let bdf = Bdf::new(2, 0x10, 3);
        assert_eq!(bdf.requester_id(), 0x0283);
        assert_eq!((bdf.bus(), bdf.device(), bdf.function()), (2, 0x10, 3));
        assert_eq!(bdf.to_string(), "02:10.3");
    }

    #[test]
    fn reads_addresses_with_and_without_segment() {
        let full: HostBdf = "0001:02:1f.7".parse().unwrap();
        assert_eq!((full.segment, full.bdf), (1, Bdf::new(2, 0x1f, 7)));
        let short: HostBdf = "02:10.0".parse().unwrap();
        assert_eq!(short.to_string(), "0000:02:10.0");
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in [
            "",
            "02",
            "02:10",
            "02:20.0",
            "02:10.8",
            "x:10.0",
            "00000:02:10.0",
            "+2:10.0",
        ] {
            assert!(text.parse::<HostBdf>().is_err(), "{text}");
        }
    }
}
