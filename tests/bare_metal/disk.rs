//! A disk image whose contents both sides can compute.

use std::fs;
use std::path::{Path, PathBuf};

use crate::payload::scratch;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
const WORDS: u64 = SECTOR as u64 / 8;
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What sectors from `lba` on hold at first: words of SplitMix64.
pub fn pattern(lba: u64, sectors: u64) -> Vec<u8> {
    let words = lba * WORDS..(lba + sectors) * WORDS;
    words
        .flat_map(|n| {
            let z = (n + 1).wrapping_mul(STEP).wrapping_add(1);
            let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ z >> 31).to_le_bytes()
        })
        .collect()
}

/// An image; it goes with this object.
pub struct Image(PathBuf);

impl Image {
    /// An image of that many sectors.
    pub fn new(name: &str, sectors: u64) -> Self {
        let path = scratch().join(name);
        fs::write(&path, pattern(0, sectors)).expect("an image");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// As `--disk` or `--cdrom` wants it.
    pub fn flag(&self) -> String {
        format!("path={}", self.0.display())
    }

    /// Its sectors now.
    pub fn sectors(&self, lba: u64, sectors: u64) -> Vec<u8> {
        let bytes = fs::read(&self.0).expect("the image");
        let at = |lba: u64| usize::try_from(lba).expect("small") * SECTOR;
        bytes[at(lba)..at(lba + sectors)].to_vec()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
