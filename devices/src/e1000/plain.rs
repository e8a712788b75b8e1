//! Registers that are storage here: what they tune or observe does not exist in a virtual
//! NIC (FIFOs, gaps on the wire, LEDs, flow control), or happens in a state that it is
//! never in (wake-up). 8254x SDM §13.

use super::registers::offset;

/// Registers from `start`, every `step` bytes, that keep the bits of `mask`.
struct Range {
    start: u32,
    count: u32,
    step: u32,
    mask: u32,
    initial: u32,
}

const fn one(start: u32, mask: u32, initial: u32) -> Range {
    Range {
        start,
        count: 1,
        step: 4,
        mask,
        initial,
    }
}

const fn many(start: u32, count: u32, step: u32, mask: u32) -> Range {
    Range {
        start,
        count,
        step,
        mask,
        initial: 0,
    }
}

const ALL: u32 = u32::MAX;

const RANGES: [Range; 30] = [
    one(offset::CTRL_EXT, ALL, 0),
    one(offset::FCAL, ALL, 0),
    one(offset::FCAH, 0xffff, 0),
    one(offset::FCT, 0xffff, 0),
    one(offset::FCTTV, 0xffff, 0),
    one(offset::TXCW, ALL, 0),
    one(offset::TIPG, 0x3fff_ffff, 0x0060_2008),
    one(offset::AIT, 0xffff, 0),
    one(offset::LEDCTL, ALL, 0x0706_8302),
    // 48 KiB to receive, 16 KiB to transmit.
    one(offset::PBA, 0xffff, 0x0010_0030),
    one(offset::FCRTL, 0x8000_fff8, 0),
    one(offset::FCRTH, 0x0000_fff8, 0),
    many(offset::RDFH, 5, 8, 0x1fff),
    one(offset::RXDCTL, ALL, 0x0101_0000),
    one(offset::RSRPD, 0x0fff, 0),
    one(offset::TXDMAC, 1, 0),
    many(offset::TDFH, 5, 8, 0x1fff),
    one(offset::TXDCTL, ALL, 0),
    one(offset::TSPMT, ALL, 0x0100_0400),
    one(offset::WUC, 0x0f, 0),
    one(offset::WUFC, 0x000f_80ff, 0),
    one(offset::WUS, 0x000f_00ff, 0),
    one(offset::MANC, ALL, 0),
    one(offset::IPAV, 0x0001_000f, 0),
    many(offset::IP4AT, 4, 8, ALL),
    many(offset::IP6AT, 4, 4, ALL),
    many(offset::WUPM, 32, 4, ALL),
    many(offset::FFLT, 4, 8, 0x7ff),
    many(offset::FFMT, 128, 8, 0xf),
    many(offset::FFVT, 128, 8, ALL),
];

/// Registers in all ranges.
const COUNT: usize = {
    let (mut count, mut i) = (0, 0);
    while i < RANGES.len() {
        count += RANGES[i].count as usize;
        i += 1;
    }
    count
};

/// Their contents. **Reset**: power-on, PCI reset and CTRL.RST give the initial values.
#[derive(Clone, serde::Serialize)]
pub struct Plain(#[serde(serialize_with = "super::state::boxed")] Box<[u32; COUNT]>);

impl Default for Plain {
    fn default() -> Self {
        let mut values = Box::new([0; COUNT]);
        let mut values_left = values.iter_mut();
        for range in &RANGES {
            for value in values_left.by_ref().take(range.count as usize) {
                *value = range.initial;
            }
        }
        Self(values)
    }
}

impl Plain {
    /// Reads a register; zero if there is none.
    pub fn read(&self, offset: u32) -> u32 {
        find(offset).map_or(0, |(index, _)| self.0[index])
    }

    /// Writes a register if there is one; bits outside its mask keep their value.
    pub fn write(&mut self, offset: u32, value: u32) {
        if let Some((index, mask)) = find(offset) {
            self.0[index] = self.0[index] & !mask | value & mask;
        }
    }
}

fn find(offset: u32) -> Option<(usize, u32)> {
    let mut index = 0;
    for range in &RANGES {
        let from = offset.wrapping_sub(range.start);
        if from % range.step == 0 && from / range.step < range.count {
            return Some((index + (from / range.step) as usize, range.mask));
        }
        index += range.count as usize;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_keep_their_bits_and_stay_apart() {
        let mut plain = Plain::default();
        assert_eq!(plain.read(offset::PBA), 0x0010_0030);
        plain.write(offset::PBA, 0xffff_0020);
        assert_eq!(plain.read(offset::PBA), 0x0010_0020);
        for (value, at) in [
            (1, 0x2410),
            (2, 0x2418),
            (3, 0x2430),
            (4, 0x9000),
            (5, 0x9bf8),
        ] {
            plain.write(at, value);
        }
        assert_eq!(plain.read(0x2410), 1);
        assert_eq!((plain.read(0x2430), plain.read(0x2438)), (3, 0));
        assert_eq!((plain.read(0x9000), plain.read(0x9bf8)), (4, 5));
        plain.write(0x9004, 1);
        assert_eq!(plain.read(0x9004), 0);
    }
}
