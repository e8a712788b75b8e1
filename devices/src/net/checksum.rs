//! The Internet checksum (RFC 1071).

/// A running ones' complement sum of 16-bit big-endian words.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum {
    /// Sum of the words as this machine reads them; the byte order comes right at the end
    /// (RFC 1071 §2(B)).
    native: u64,
    /// An odd number of bytes was added, so the next one is a low byte.
    odd: bool,
}

impl Sum {
    /// Adds bytes that follow those already added.
    pub fn add(&mut self, bytes: &[u8]) {
        // Halves of eight bytes at a time, each into a sum of its own: what vector units of any age do without
        // shuffling, and emulators without calling a function for each shuffle. At most 2^32 words of 2^32 each: no
        // overflow for any slice there can be here.
        let (mut low, mut high) = (0u64, 0u64);
        let mut sum_up = |word: [u8; 8]| {
            let word = u64::from_ne_bytes(word);
            low += word & 0xffff_ffff;
            high += word >> 32;
        };
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            sum_up(*word);
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        sum_up(last);
        let mut sum = fold(low + high);
        if self.odd {
            sum = sum.swap_bytes();
        }
        self.native = u64::from(fold(self.native)) + u64::from(sum);
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds one 16-bit word; an even number of bytes must have been added before.
    pub fn add_word(&mut self, word: u16) {
        self.native += u64::from(word.to_be());
    }

    /// Adds a 32-bit number as two words.
    pub fn add_long(&mut self, long: u32) {
        self.add_word((long >> 16) as u16);
        self.add_word(long as u16);
    }

    /// The sum so far, not inverted.
    pub fn value(self) -> u16 {
        u16::from_be(fold(self.native))
    }

    /// The checksum: the inverted sum. Zero, which in UDP means that there is none, comes
    /// out as its other form, all ones (RFC 768).
    pub fn checksum(self) -> u16 {
        match !self.value() {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// The sum of `bytes`.
pub(super) fn sum(bytes: &[u8]) -> Sum {
    let mut sum = Sum::default();
    sum.add(bytes);
    sum
}

const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §4.1, word for word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn agrees_with_the_rfc() {
        // RFC 1071 §3.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes).value(), 0xddf2);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_sum(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(0usize..300, 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut sum = Sum::default();
            for pair in cuts.windows(2) {
                sum.add(&bytes[pair[0]..pair[1]]);
            }
            let (got, want) = (sum.value(), reference(&bytes));
            // Zero has two forms.
            prop_assert!(got == want || (got % 0xffff == 0 && want % 0xffff == 0));
        }
    }
}
