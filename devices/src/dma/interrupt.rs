//! What a device writes to the interrupt address range: each DWORD is an interrupt request, no
//! matter what in the device wrote it (Intel SDM vol. 3 §12.11, VT-d 4.1 §3.15).
//!
//! A transfer is as many requests as it has parts in different pages, as none crosses a boundary
//! of 4 KiB (PCIe 6.0 §2.2.7). One of exactly a DWORD goes the way of every message: through
//! interrupt remapping, with the requester's id, to the interrupt controllers. Any other, and any
//! read, is illegal: it is blocked, and reported as an interrupt remapping fault. (A read of no
//! length is not, and does nothing.) The device is told of what was not taken, and the rest of
//! the transfer does not happen.

use iommu::{Access, INTERRUPT_RANGE};
use pci::MsiMessage;
use vm_memory::VolatileSlice;

use super::{Dma, DmaError};

/// Requests do not cross multiples of it.
const BOUNDARY: u64 = 0x1000;

/// Some of `len` bytes at `iova` are in the range. (None are in it where `iova` is.)
pub(super) fn concern(iova: u64, len: usize) -> bool {
    const SIZE: u64 = INTERRUPT_RANGE.end - INTERRUPT_RANGE.start;
    // The last byte is at the start of the range or after it, and the first before its end.
    let others = (len as u64).wrapping_sub(1);
    let last = iova
        .wrapping_sub(INTERRUPT_RANGE.start)
        .wrapping_add(others);
    last < SIZE.wrapping_add(others)
}

/// How many bytes from `iova` on are before the range.
fn before(iova: u64) -> usize {
    INTERRUPT_RANGE.start.saturating_sub(iova) as usize
}

impl Dma {
    /// The pieces of a transfer into the range that come before it.
    #[cold]
    pub(super) fn pieces_before_interrupts<'a>(
        &'a self,
        iova: u64,
        len: usize,
        access: Access,
        each: impl FnMut(VolatileSlice<'a>),
    ) -> Result<(), DmaError> {
        self.pieces(iova, before(iova).min(len), access, each)?;
        if len == 0 {
            return Ok(());
        }
        let at = iova.max(INTERRUPT_RANGE.start);
        Err(match access {
            Access::Read => self.illegal(at),
            Access::Write => DmaError::Interrupts(at),
        })
    }

    /// Writes to memory on both sides of the range, and sends what is in it.
    #[cold]
    pub(super) fn write_interrupts(&self, iova: u64, buf: &[u8]) -> Result<(), DmaError> {
        let (memory, mut rest) = buf.split_at(before(iova).min(buf.len()));
        self.write_memory(iova, memory)?;
        let mut at = iova.max(INTERRUPT_RANGE.start);
        while INTERRUPT_RANGE.contains(&at) && !rest.is_empty() {
            let room = (BOUNDARY - at % BOUNDARY) as usize;
            let (request, after) = rest.split_at(room.min(rest.len()));
            self.write_interrupt(at, request)?;
            at += request.len() as u64;
            rest = after;
        }
        self.write_memory(at, rest)
    }

    fn write_interrupt(&self, address: u64, request: &[u8]) -> Result<(), DmaError> {
        let dword = request
            .try_into()
            .ok()
            .filter(|_| address.is_multiple_of(4));
        let Some(data) = dword.map(u32::from_le_bytes) else {
            return Err(self.illegal(address));
        };
        Ok(self.request_interrupt(MsiMessage { address, data })?)
    }

    fn illegal(&self, address: u64) -> DmaError {
        self.0.remapper.illegal(self.bdf());
        DmaError::NotAnInterrupt(address)
    }
}

#[cfg(test)]
mod tests;
