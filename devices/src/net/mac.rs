//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

/// An Ethernet (MAC) address, first byte on the wire first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of all stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// For a group of stations, the broadcast address among them (IEEE 802.3 §3.2.3).
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no address for a NIC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMacError {
    /// Not six bytes in hex.
    #[error("'{0}' is not a MAC address; write six bytes in hex, such as 02:00:00:00:00:01")]
    Malformed(String),
    /// A group address (IEEE 802.3 §3.2.3).
    #[error(
        "{0} is a multicast address and cannot be a card's own; make its first byte even, such as 02"
    )]
    Multicast(Mac),
    /// All zeros.
    #[error("00:00:00:00:00:00 is not an address; write another, such as 02:00:00:00:00:01")]
    Zero,
}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseMacError::Malformed(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(malformed)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        match Self(bytes) {
            Self([0, 0, 0, 0, 0, 0]) => Err(ParseMacError::Zero),
            group if group.is_multicast() => Err(ParseMacError::Multicast(group)),
            mac => Ok(mac),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        let mac: Mac = "52:54:00:AB:cd:0f".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
        assert_eq!("52-54-00-ab-cd-0f".parse(), Ok(mac));
    }

    #[test]
    fn refuses_what_is_none() {
        for text in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0f:1",
            "2:0:0:0:0:1",
            "+2:54:00:ab:cd:0f",
            "x",
        ] {
            assert!(
                matches!(text.parse::<Mac>(), Err(ParseMacError::Malformed(_))),
                "{text}"
            );
        }
        for text in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"] {
            let error = text.parse::<Mac>().unwrap_err();
            assert!(matches!(error, ParseMacError::Multicast(_)), "{text}");
            assert!(error.to_string().starts_with(text));
        }
        assert_eq!("00:00:00:00:00:00".parse::<Mac>(), Err(ParseMacError::Zero));
    }
}
