//! The option ROM of an assigned device (PCI Firmware 3.3 §5; PCIe 6.0 §7.5.1.2.4).
//!
//! It is read once, when the device is taken and before the guest runs: a device may decode
//! its ROM with what decodes its BARs, so that reading it later could disturb the guest. From
//! then on the guest has a copy. What is wrong with the copy is mended if the guest's firmware
//! would otherwise not run it: a shadow of the ROM that the host's firmware left in RAM has
//! often been written to, and its check sum is off.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backend::{PAGE, RegionId, VfioBackend};
use super::presentation::RomSource;
use crate::bus::{FastPath, Mapping, Region};

/// The largest ROM that a base address register can be for.
const MOST: u64 = 1 << 24;
/// The smallest.
const LEAST: usize = 1 << 11;

/// A file that cannot be a ROM.
#[derive(Debug, thiserror::Error)]
pub enum RomError {
    /// It could not be read.
    #[error("rom={}: cannot read it", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is too large.
    #[error("rom={}: larger than 16 MiB, the most that an option ROM can be", .0.display())]
    TooLarge(PathBuf),
    /// It is something else.
    #[error("rom={}: no option ROM: {reason}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: Flaw,
    },
}

/// Why bytes are no option ROM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Flaw {
    /// It does not begin as one.
    #[error("it does not begin with 55h AAh")]
    Signature,
    /// No PCI data structure.
    #[error("its first image has no PCI data structure (\"PCIR\")")]
    Structure,
}

/// Who the ROM must be for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub vendor: u16,
    pub device: u16,
}

/// Reads the ROM that the guest shall have. That the device's own cannot be had is told and
/// borne; a file that the operator named must be good.
pub(super) fn load(
    source: &RomSource,
    backend: &dyn VfioBackend,
    name: &str,
    identity: Identity,
) -> Result<Option<Rom>, RomError> {
    let mut image = match source {
        RomSource::Off => return Ok(None),
        RomSource::File(path) => read_file(path)?,
        RomSource::Device => match read_device(backend, name) {
            Some(image) => image,
            None => return Ok(None),
        },
    };
    match mend(&mut image, identity) {
        Ok(mended) => {
            if mended > 0 {
                tracing::info!(device = name, mended, "the option ROM's copy was mended");
            }
            Ok(Some(Rom::new(&image)))
        }
        Err(reason) => match source {
            RomSource::File(path) => Err(RomError::Invalid {
                path: path.clone(),
                reason,
            }),
            _ => {
                tracing::warn!(
                    device = name, %reason,
                    "the option ROM is hidden from the guest; rom=PATH gives it another"
                );
                Ok(None)
            }
        },
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, RomError> {
    let mut image = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut image));
    read.map_err(|source| RomError::Read {
        path: path.to_owned(),
        source,
    })?;
    if image.len() as u64 > MOST {
        return Err(RomError::TooLarge(path.to_owned()));
    }
    Ok(image)
}

/// The device's own ROM. Most virtual functions and many others have none.
fn read_device(backend: &dyn VfioBackend, name: &str) -> Option<Vec<u8>> {
    let info = backend.region(RegionId::Rom);
    if info.size == 0 || !info.readable {
        return None;
    }
    let mut image = vec![0; info.size.min(MOST) as usize];
    match backend.read(RegionId::Rom, 0, &mut image) {
        Ok(()) => Some(image),
        Err(error) => {
            tracing::warn!(
                device = name, %error,
                "the kernel cannot read the option ROM, which is hidden from the guest"
            );
            None
        }
    }
}

/// The headers of one image: the ROM's own (PCI Firmware 3.3 §5.1.1) and the PCI data
/// structure that it points to (§5.1.2). All offsets are from the image's start.
#[derive(Clone, Copy)]
struct Image {
    start: usize,
    data: usize,
}

impl Image {
    const SIGNATURE: [u8; 2] = [0x55, 0xaa];
    /// Where the first byte that code may use for what it likes is.
    const SPARE: usize = 6;

    fn at(rom: &[u8], start: usize) -> Result<Self, Flaw> {
        if rom.get(start..start + 2) != Some(&Self::SIGNATURE) {
            return Err(Flaw::Signature);
        }
        let data = start + usize::from(u16_at(rom, start + 0x18));
        if rom.get(data..data + 4) != Some(b"PCIR") || rom.len() < data + 0x18 {
            return Err(Flaw::Structure);
        }
        Ok(Self { start, data })
    }

    fn len(self, rom: &[u8]) -> usize {
        512 * usize::from(u16_at(rom, self.data + 0x10))
    }

    fn is_last(self, rom: &[u8]) -> bool {
        rom[self.data + 0x15] & 0x80 != 0
    }

    /// Code type 0 is for PC-AT firmware; only its images have a check sum (§5.2).
    fn is_pc(self, rom: &[u8]) -> bool {
        rom[self.data + 0x14] == 0
    }

    /// The device is the image's own, or one of its device list.
    fn is_for(self, rom: &[u8], device: u16) -> bool {
        if u16_at(rom, self.data + 6) == device {
            return true;
        }
        let (revision, list) = (rom[self.data + 0x0c], u16_at(rom, self.data + 8));
        if revision < 3 || list == 0 {
            return false;
        }
        (self.data + usize::from(list)..rom.len())
            .step_by(2)
            .map(|at| u16_at(rom, at))
            .take_while(|&id| id != 0)
            .any(|id| id == device)
    }

    /// Firmware runs an image only for its own device, and a PC one only if its bytes add up
    /// to zero (§5.2.1). True if something was changed.
    fn mend(self, rom: &mut [u8], identity: Identity) -> bool {
        let mut mended = false;
        let ours = u16_at(rom, self.data + 4) == identity.vendor;
        if ours && !self.is_for(rom, identity.device) {
            rom[self.data + 6..self.data + 8].copy_from_slice(&identity.device.to_le_bytes());
            mended = true;
        }
        mended | (self.is_pc(rom) && self.mend_sum(rom))
    }

    fn mend_sum(self, rom: &mut [u8]) -> bool {
        let len = 512 * usize::from(rom[self.start + 2]);
        // One that claims more than there is never ran.
        let Some(code) = rom.get_mut(self.start..self.start + len) else {
            return false;
        };
        let sum = code.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        if let Some(spare) = code.get_mut(Self::SPARE) {
            *spare = spare.wrapping_sub(sum);
        }
        sum != 0
    }
}

fn u16_at(rom: &[u8], at: usize) -> u16 {
    let byte = |at| rom.get(at).copied().unwrap_or(0);
    u16::from_le_bytes([byte(at), byte(at + 1)])
}

/// Checks the first image and mends all; says how many needed it.
fn mend(rom: &mut [u8], identity: Identity) -> Result<usize, Flaw> {
    let mut image = Image::at(rom, 0)?;
    let mut mended = 0;
    // Each is at least 512 bytes further than the one before.
    loop {
        mended += usize::from(image.mend(rom, identity));
        let next = image.start + image.len(rom);
        if image.is_last(rom) || next == image.start {
            return Ok(mended);
        }
        match Image::at(rom, next) {
            Ok(next) => image = next,
            Err(_) => return Ok(mended),
        }
    }
}

/// A page of the copy.
#[repr(C, align(4096))]
struct Page([u8; PAGE as usize]);

/// The ROM that the guest has: a copy, which nobody writes.
pub(super) struct Rom {
    pages: Box<[Page]>,
    size: usize,
}

impl Rom {
    fn new(image: &[u8]) -> Self {
        let size = image.len().next_power_of_two().max(LEAST);
        let pages = size.div_ceil(PAGE as usize);
        // Bytes that nobody programmed are ones.
        let mut pages: Vec<_> = (0..pages).map(|_| Page([0xff; PAGE as usize])).collect();
        for (page, bytes) in pages.iter_mut().zip(image.chunks(PAGE as usize)) {
            page.0[..bytes.len()].copy_from_slice(bytes);
        }
        Self {
            pages: pages.into(),
            size,
        }
    }

    /// Bytes that its base address register claims.
    pub fn size(&self) -> u64 {
        self.size as u64
    }

    /// The guest reads it as memory; a write exits, and is lost.
    pub fn fast_paths(self: &Arc<Self>) -> Vec<FastPath> {
        let memory = Arc::clone(self) as Arc<dyn Mapping>;
        let whole = self.size >= PAGE as usize;
        whole
            .then_some(FastPath::Mapped { offset: 0, memory })
            .into_iter()
            .collect()
    }

    fn byte(&self, at: u64) -> Option<u8> {
        let page = self.pages.get(usize::try_from(at / PAGE).ok()?)?;
        page.0.get((at % PAGE) as usize).copied()
    }
}

impl Mapping for Rom {
    fn host_address(&self) -> usize {
        self.pages.as_ptr() as usize
    }

    fn len(&self) -> usize {
        self.size
    }

    fn writable(&self) -> bool {
        false
    }
}

impl Region for Rom {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (0..).zip(data) {
            let at = offset.checked_add(at);
            *byte = at.and_then(|at| self.byte(at)).unwrap_or(0xff);
        }
    }

    fn write(&self, _: u64, _: &[u8]) {}
}
