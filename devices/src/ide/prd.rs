//! The Physical Region Descriptor table: where in memory a DMA goes (BMIDE §1.2).

use iommu::Access;
use vm_memory::VolatileSlice;

use crate::dma::{Dma, DmaError, UnderWay};

/// Bytes in a descriptor: address, byte count, end-of-table flag.
const ENTRY: u32 = 8;
/// The table lies within 64 KiB, so it has no more entries. A table with no end is taken to
/// end here.
const MOST_ENTRIES: u32 = 0x1_0000 / ENTRY;
/// Bytes in a request on the bus at most.
pub const REQUEST: usize = 4096;
/// End of table, bit 15 of a descriptor's last word.
const END_OF_TABLE: u32 = 1 << 31;

/// A walk over a descriptor table of the guest's.
///
/// What the specification leaves open is settled so: the table pointer wraps within its
/// 64 KiB; bit 0 of addresses and counts is ignored; a region that crosses 64 KiB simply
/// continues; addresses wrap at 4 GiB, as the controller has no more address lines.
#[derive(Clone, Debug)]
pub struct PrdWalk {
    table: u32,
    entries: u32,
    address: u32,
    left: u32,
    end: bool,
}

impl PrdWalk {
    /// Begins at a table.
    pub fn new(table: u32) -> Self {
        Self {
            table: table & !3,
            entries: 0,
            address: 0,
            left: 0,
            end: false,
        }
    }

    /// Every byte of every region has been given out.
    pub fn is_spent(&self) -> bool {
        self.left == 0 && (self.end || self.entries >= MOST_ENTRIES)
    }

    /// Appends memory for the next bytes, `want` at most, to `pieces`, and returns how many
    /// bytes it is. Fewer than wanted when the table ends or `pieces` has grown to `most`, or
    /// where a region goes on with interrupt requests: those it comes to first are an error.
    /// After one, what was appended is good; it is the drive's until `under_way` ends.
    pub fn collect<'a>(
        &mut self,
        dma: &'a Dma,
        under_way: &UnderWay<'_>,
        want: u64,
        access: Access,
        most: usize,
        pieces: &mut Vec<VolatileSlice<'a>>,
    ) -> Result<u64, DmaError> {
        let mut collected = 0;
        while collected < want && pieces.len() < most {
            if self.left == 0 && !self.fetch(dma)? {
                break;
            }
            let to_wrap = (1u64 << 32) - u64::from(self.address);
            let len = u64::from(self.left).min(want - collected).min(to_wrap) as u32;
            let address = u64::from(self.address);
            let mut given = 0;
            let all = dma.for_each_piece(under_way, address, len as usize, access, |piece| {
                given += piece.len() as u32;
                pieces.push(piece);
            });
            self.advance(given);
            collected += u64::from(given);
            match all {
                Err(DmaError::Interrupts(_)) if collected > 0 => break,
                all => all?,
            }
        }
        Ok(collected)
    }

    /// Where the region at hand goes on, and for how many bytes, `most` at most, up to a multiple
    /// of 4 KiB. They count as given out.
    pub fn next_request(&mut self, most: u64) -> (u64, usize) {
        let address = self.address;
        let to_boundary = REQUEST as u32 - address % REQUEST as u32;
        let len = u64::from(self.left.min(to_boundary)).min(most) as u32;
        self.advance(len);
        (address.into(), len as usize)
    }

    fn advance(&mut self, bytes: u32) {
        self.address = self.address.wrapping_add(bytes);
        self.left -= bytes;
    }

    /// Loads the next descriptor; false at the end of the table.
    fn fetch(&mut self, dma: &Dma) -> Result<bool, DmaError> {
        if self.is_spent() {
            return Ok(false);
        }
        let at = |dword: u32| {
            let offset = self.table.wrapping_add(self.entries * ENTRY + 4 * dword) & 0xffff;
            u64::from(self.table & !0xffff | offset)
        };
        let (address, control) = if at(1) == at(0) + 4 {
            let entry = u64::from_le(dma.read_obj(at(0))?);
            (entry as u32, (entry >> 32) as u32)
        } else {
            let (low, high) = (dma.read_obj(at(0))?, dma.read_obj(at(1))?);
            (u32::from_le(low), u32::from_le(high))
        };
        self.entries += 1;
        self.address = address & !1;
        self.left = match control & 0xfffe {
            0 => 0x1_0000,
            n => n,
        };
        self.end = control & END_OF_TABLE != 0;
        Ok(true)
    }
}
