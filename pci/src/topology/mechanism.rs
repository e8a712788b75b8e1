//! The two ways of software to config space: ports CF8h and CFCh (PCI 3.0 §3.2.2.3.2) and
//! ECAM (PCIe 6.0 §7.2.2).

use std::sync::atomic::Ordering;

use super::{Topology, Written};
use crate::split::pieces;
use crate::{Bdf, Changes, ConfigCycles, ConfigWrite, Function, Register};

/// CONFIG_ADDRESS.
const ADDRESS: u16 = 0xcf8;
/// CONFIG_DATA.
const DATA: u16 = 0xcfc;
/// Enable, bus, device, function and register; the rest reads as zero.
const ADDRESS_BITS: u32 = 0x80ff_fffc;
/// Bytes of ECAM: 4 KiB a function, 256 functions a bus, 256 buses.
const ECAM_SIZE: u64 = 1 << 28;

/// A port access that is none of the config mechanism's, and did nothing: of CONFIG_ADDRESS
/// only whole dwords are (PCI 3.0 §3.2.2.3.2), and other devices have ports in it, such as
/// the reset control register at CF9h.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an access of the PCI config mechanism")]
pub struct NotConfig;

impl<F: Function + ?Sized> Topology<F> {
    /// Reads from CF8h..=CFFh; where there is no function, all ones.
    pub fn port_read(&self, port: u16, data: &mut [u8]) -> Result<(), NotConfig> {
        match (port, data.len()) {
            (ADDRESS, 4) => {
                data.copy_from_slice(&self.address.load(Ordering::Relaxed).to_le_bytes());
            }
            (DATA..=0xcff, 1..) => {
                // Bytes past CFFh are not there.
                data.fill(0xff);
                let lane = u64::from(port - DATA);
                let value = self
                    .selected()
                    .map_or(u32::MAX, |(bdf, register)| self.config_read(bdf, register));
                if let Some(piece) = pieces(lane, data.len()).next() {
                    piece.fill(value, data);
                }
            }
            _ => return Err(NotConfig),
        }
        Ok(())
    }

    /// Writes to CF8h..=CFFh, and says which function took it, if any.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Result<Option<Written>, NotConfig> {
        match (port, data) {
            (ADDRESS, &[a, b, c, d]) => {
                let value = u32::from_le_bytes([a, b, c, d]) & ADDRESS_BITS;
                self.address.store(value, Ordering::Relaxed);
                Ok(None)
            }
            (DATA..=0xcff, [_, ..]) => {
                // Bytes past CFFh go nowhere.
                let lane = u64::from(port - DATA);
                let written = self.selected().and_then(|(bdf, register)| {
                    let piece = pieces(lane, data.len()).next()?;
                    self.config_write(bdf, piece.write(register, data))
                });
                Ok(written)
            }
            _ => Err(NotConfig),
        }
    }

    /// What CONFIG_ADDRESS selects, if it is enabled.
    fn selected(&self) -> Option<(Bdf, Register)> {
        let address = self.address.load(Ordering::Relaxed);
        let bdf = Bdf::from_requester_id((address >> 8) as u16);
        let register = Register::containing(address as u16 & 0xfc);
        (address & 1 << 31 != 0).then_some((bdf, register))
    }

    /// Reads memory `offset` bytes into ECAM. Where there is no function, and beyond the
    /// last bus, all ones.
    pub fn ecam_read(&self, offset: u64, data: &mut [u8]) {
        for piece in pieces(offset, data.len()) {
            let value = match ecam_target(piece.base) {
                Some((bdf, register)) => self.config_read(bdf, register),
                None => u32::MAX,
            };
            piece.fill(value, data);
        }
    }

    /// Writes memory `offset` bytes into ECAM, in ascending dwords. Returns the writes
    /// that changed something.
    pub fn ecam_write(&self, offset: u64, data: &[u8]) -> Vec<Written> {
        pieces(offset, data.len())
            .filter_map(|piece| {
                let (bdf, register) = ecam_target(piece.base)?;
                self.config_write(bdf, piece.write(register, data))
            })
            .filter(|written| written.changes != Changes::empty())
            .collect()
    }
}

/// Cycles of the machine's own, as firmware would send them. Who sends them follows what
/// they changed when all is placed.
impl<F: Function + ?Sized> ConfigCycles for Topology<F> {
    fn read(&self, function: Bdf, register: Register) -> u32 {
        self.config_read(function, register)
    }

    fn write(&self, function: Bdf, write: ConfigWrite) {
        self.config_write(function, write);
    }
}

fn ecam_target(offset: u64) -> Option<(Bdf, Register)> {
    let bdf = Bdf::from_requester_id((offset >> 12) as u16);
    (offset < ECAM_SIZE).then(|| (bdf, Register::containing(offset as u16)))
}
