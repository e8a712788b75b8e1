//! Sense data: why a packet command did not do (SPC-3 §4.5, MMC-5 annex F).

use serde::Serialize;

/// Sense key, additional sense code and qualifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Sense {
    /// The kind of trouble.
    pub key: u8,
    /// What exactly.
    pub code: u8,
    /// And more exactly.
    pub qualifier: u8,
}

impl Sense {
    const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Self {
            key,
            code,
            qualifier,
        }
    }

    /// Nothing to report.
    pub const NONE: Self = Self::new(0, 0, 0);
    /// NOT READY, medium not present, tray open.
    pub const NO_MEDIUM: Self = Self::new(2, 0x3a, 0x02);
    /// MEDIUM ERROR, unrecovered read error.
    pub const UNREADABLE: Self = Self::new(3, 0x11, 0);
    /// HARDWARE ERROR, internal target failure.
    pub const TARGET_FAILURE: Self = Self::new(4, 0x44, 0);
    /// ILLEGAL REQUEST, invalid command operation code.
    pub const INVALID_OPCODE: Self = Self::new(5, 0x20, 0);
    /// ILLEGAL REQUEST, logical block address out of range.
    pub const OUT_OF_RANGE: Self = Self::new(5, 0x21, 0);
    /// ILLEGAL REQUEST, invalid field in CDB.
    pub const INVALID_FIELD: Self = Self::new(5, 0x24, 0);
    /// ILLEGAL REQUEST, saving parameters not supported.
    pub const NO_SAVED_PAGES: Self = Self::new(5, 0x39, 0);
    /// ILLEGAL REQUEST, medium removal prevented.
    pub const REMOVAL_PREVENTED: Self = Self::new(5, 0x53, 0x02);
    /// UNIT ATTENTION, medium may have changed.
    pub const MEDIUM_CHANGED: Self = Self::new(6, 0x28, 0);

    /// Fixed format sense data, current error (SPC-3 §4.5.3).
    pub fn fixed_format(self) -> [u8; 18] {
        let mut data = [0; 18];
        data[0] = 0x70;
        data[2] = self.key;
        data[7] = 10;
        data[12] = self.code;
        data[13] = self.qualifier;
        data
    }
}
