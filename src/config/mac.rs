//! Ethernet addresses for cards that were given none.

use devices::net::Mac;

/// An address that is locally administered (IEEE 802 §8.4) and a function of `parts`: 40
/// bits of their hash after 02. Give it what tells one card from another.
pub fn derived(parts: &[&str]) -> Mac {
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
    Mac([0x02, a, b, c, d, e])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_addresses_are_stable_local_and_apart() {
        let a = derived(&["host", "tap0", "0"]);
        assert_eq!(a, derived(&["host", "tap0", "0"]));
        assert_ne!(a, derived(&["host", "tap0", "1"]));
        assert_ne!(derived(&["ab", "c"]), derived(&["a", "bc"]));
        assert_eq!(a.0[0], 0x02);
        assert!(a.to_string().parse::<Mac>().is_ok());
    }
}
