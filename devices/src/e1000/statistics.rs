//! Statistics registers (8254x SDM §13.7): 64 dwords that clear when read and stick at
//! their largest value.
//!
//! **Reset.** Power-on, PCI reset and CTRL.RST clear them.

use crate::net::Mac;

/// Dwords in the block.
pub const COUNT: usize = 64;

/// Indices: offset from the first statistics register, in dwords.
mod index {
    pub const MPC: usize = 0x10 / 4;
    pub const ROC: usize = 0xac / 4;
    pub const RNBC: usize = 0xa0 / 4;
    pub const PRC64: usize = 0x5c / 4;
    pub const GPRC: usize = 0x74 / 4;
    pub const BPRC: usize = 0x78 / 4;
    pub const MPRC: usize = 0x7c / 4;
    pub const GPTC: usize = 0x80 / 4;
    pub const GORC: usize = 0x88 / 4;
    pub const GOTC: usize = 0x90 / 4;
    pub const TOR: usize = 0xc0 / 4;
    pub const TOT: usize = 0xc8 / 4;
    pub const TPR: usize = 0xd0 / 4;
    pub const TPT: usize = 0xd4 / 4;
    pub const PTC64: usize = 0xd8 / 4;
    pub const MPTC: usize = 0xf0 / 4;
    pub const BPTC: usize = 0xf4 / 4;
    pub const TSCTC: usize = 0xf8 / 4;
}

/// The counters.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Statistics(#[serde(serialize_with = "super::state::boxed")] Box<[u32; COUNT]>);

impl Default for Statistics {
    fn default() -> Self {
        Self(Box::new([0; COUNT]))
    }
}

impl Statistics {
    /// Reads a register. Of a pair, the low half is read first and stays until the high
    /// half is read, which clears both (§13.7.29).
    pub fn read(&mut self, index: usize) -> u32 {
        match index {
            index::GORC | index::GOTC | index::TOR | index::TOT => self.0[index],
            _ if index >= COUNT => 0,
            _ => {
                let value = std::mem::take(&mut self.0[index]);
                let low = index.wrapping_sub(1);
                if matches!(low, index::GORC | index::GOTC | index::TOR | index::TOT) {
                    self.0[low] = 0;
                }
                value
            }
        }
    }

    /// Every register reads as zero.
    pub fn is_clear(&self) -> bool {
        self.0.iter().all(|&value| value == 0)
    }

    /// A packet of `bytes`, frame check sequence included, came to the filters.
    pub fn seen(&mut self, bytes: usize) {
        self.add(index::TPR, 1);
        self.add_pair(index::TOR, bytes);
    }

    /// It was received.
    pub fn received(&mut self, destination: Mac, bytes: usize) {
        self.add(index::GPRC, 1);
        self.add(index::PRC64 + size_class(bytes), 1);
        self.add_pair(index::GORC, bytes);
        self.add_cast(destination, 1, index::BPRC, index::MPRC);
    }

    /// It was missed: there will never be buffers for it.
    pub fn missed(&mut self) {
        self.add(index::MPC, 1);
    }

    /// It had to wait: there were no buffers.
    pub fn no_buffers(&mut self) {
        self.add(index::RNBC, 1);
    }

    /// It was too long.
    pub fn oversize(&mut self) {
        self.add(index::ROC, 1);
    }

    /// `count` packets of `bytes` each, frame check sequence included, were sent.
    pub fn sent(&mut self, destination: Mac, bytes: usize, count: u32) {
        let all = bytes.saturating_mul(count as usize);
        self.add(index::TPT, count);
        self.add(index::GPTC, count);
        self.add(index::PTC64 + size_class(bytes), count);
        self.add_pair(index::GOTC, all);
        self.add_pair(index::TOT, all);
        self.add_cast(destination, count, index::BPTC, index::MPTC);
    }

    /// A packet was segmented.
    pub fn segmented(&mut self) {
        self.add(index::TSCTC, 1);
    }

    fn add_cast(&mut self, destination: Mac, count: u32, broadcast: usize, multicast: usize) {
        if destination == Mac::BROADCAST {
            self.add(broadcast, count);
        } else if destination.is_multicast() {
            self.add(multicast, count);
        }
    }

    fn add(&mut self, index: usize, by: u32) {
        self.0[index] = self.0[index].saturating_add(by);
    }

    fn add_pair(&mut self, index: usize, by: usize) {
        let old = u64::from(self.0[index + 1]) << 32 | u64::from(self.0[index]);
        let new = old.saturating_add(by as u64);
        self.0[index] = new as u32;
        self.0[index + 1] = (new >> 32) as u32;
    }
}

/// Which of the six size registers counts a packet.
fn size_class(bytes: usize) -> usize {
    match bytes {
        0..=64 => 0,
        65..=127 => 1,
        128..=255 => 2,
        256..=511 => 3,
        512..=1023 => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_clear_when_read() {
        let mut statistics = Statistics::default();
        statistics.received(Mac::BROADCAST, 64);
        statistics.received(Mac([1, 0, 0, 0, 0, 0]), 1522);
        assert_eq!(statistics.read(index::GPRC), 2);
        assert_eq!(statistics.read(index::GPRC), 0);
        assert_eq!(statistics.read(index::BPRC), 1);
        assert_eq!(statistics.read(index::MPRC), 1);
        assert_eq!(statistics.read(index::PRC64), 1);
        assert_eq!(statistics.read(index::PRC64 + 5), 1);
    }

    #[test]
    fn pairs_clear_with_their_high_half() {
        let mut statistics = Statistics::default();
        statistics.sent(Mac([2, 0, 0, 0, 0, 0]), 1 << 30, 5);
        assert_eq!(statistics.read(index::GOTC), 1 << 30);
        assert_eq!(statistics.read(index::GOTC), 1 << 30);
        assert_eq!(statistics.read(index::GOTC + 1), 1);
        assert_eq!(statistics.read(index::GOTC), 0);
        assert_eq!(statistics.read(index::TOT), 1 << 30);
        assert_eq!(statistics.read(index::GPTC), 5);
        assert_eq!(statistics.read(usize::MAX), 0);
    }

    #[test]
    fn counters_stick() {
        let mut statistics = Statistics::default();
        statistics.add(index::GPTC, u32::MAX);
        statistics.sent(Mac([2, 0, 0, 0, 0, 0]), 60, 1);
        assert_eq!(statistics.read(index::GPTC), u32::MAX);
    }
}
