//! Ethernet addresses of network cards.

use std::fmt;
use std::str::FromStr;

/// A unicast Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct MacAddr(pub [u8; 6]);

/// Text that is no address for a card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMacError {
    /// Not six bytes in hex.
    #[error("'{0}' is not a MAC address; write six bytes in hex, such as 02:00:00:00:00:01")]
    Malformed(String),
    /// The group bit is set (IEEE 802.3 §3.2.3).
    #[error(
        "{0} is a multicast address and cannot be a card's own; make its first byte even, such as 02"
    )]
    Multicast(MacAddr),
    /// All zeros.
    #[error("00:00:00:00:00:00 is not an address; write another, such as 02:00:00:00:00:01")]
    Zero,
}

impl MacAddr {
    /// An address that is locally administered (IEEE 802 §8.4) and a function of `parts`:
    /// 40 bits of their hash after 02. Give it what tells one card from another.
    pub fn derived(parts: &[&str]) -> Self {
        // FNV-1a, 64 bits: fixed for ever, unlike the standard library's hashers.
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let bytes = parts
            .iter()
            .flat_map(|part| part.bytes().chain(std::iter::once(0)));
        for byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        let hash = hash ^ hash >> 40;
        let [a, b, c, d, e, ..] = hash.to_le_bytes();
        Self([0x02, a, b, c, d, e])
    }
}

impl FromStr for MacAddr {
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
        match bytes {
            [0, 0, 0, 0, 0, 0] => Err(ParseMacError::Zero),
            [first, ..] if first & 1 != 0 => Err(ParseMacError::Multicast(Self(bytes))),
            _ => Ok(Self(bytes)),
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows() {
        let mac: MacAddr = "52:54:00:AB-cd-ef".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
    }

    #[test]
    fn refuses_what_no_card_can_have() {
        let error = |text: &str| text.parse::<MacAddr>().unwrap_err();
        assert!(matches!(
            error("01:00:5e:00:00:01"),
            ParseMacError::Multicast(_)
        ));
        assert!(matches!(
            error("ff:ff:ff:ff:ff:ff"),
            ParseMacError::Multicast(_)
        ));
        assert_eq!(error("00:00:00:00:00:00"), ParseMacError::Zero);
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:01",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
        ] {
            assert!(matches!(error(text), ParseMacError::Malformed(_)), "{text}");
        }
    }

    #[test]
    fn derived_addresses_are_stable_local_and_apart() {
        let a = MacAddr::derived(&["host", "tap0", "0"]);
        assert_eq!(a, MacAddr::derived(&["host", "tap0", "0"]));
        assert_ne!(a, MacAddr::derived(&["host", "tap0", "1"]));
        assert_ne!(
            MacAddr::derived(&["ab", "c"]),
            MacAddr::derived(&["a", "bc"])
        );
        assert_eq!(a.0[0], 0x02);
        assert!(a.to_string().parse::<MacAddr>().is_ok());
    }
}
