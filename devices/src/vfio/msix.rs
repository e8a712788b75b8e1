//! MSI-X of an assigned device (PCIe 6.0 §7.7.2): the table that the guest writes is ours,
//! and what it makes of a vector goes to [`Vectors`]. The device's own table is the kernel's.

use std::ops::Range;

use pci::{BarIndex, Bdf, InBar, MsixTable, VectorChange};

use super::vectors::{Vectors, VectorsState};

/// The MSI-X capability's table, pending bits and vectors.
pub(super) struct Msix {
    table: MsixTable,
    table_at: InBar,
    pending_at: InBar,
    vectors: Vectors,
}

impl Msix {
    pub fn new(capability: &pci::Msix, vectors: Vectors) -> Self {
        Self {
            table: MsixTable::new(capability.vectors()),
            table_at: capability.table(),
            pending_at: capability.pending(),
            vectors,
        }
    }

    /// Where the table is, if in this BAR; otherwise an empty range.
    pub fn table_in(&self, bar: BarIndex) -> Range<u64> {
        range(self.table_at, self.table.table_size(), bar)
    }

    /// Where the pending bits are, if in this BAR; otherwise an empty range.
    pub fn pending_in(&self, bar: BarIndex) -> Range<u64> {
        range(self.pending_at, self.table.pending_size(), bar)
    }

    /// Follows the capability after a write to it.
    pub fn follow(&mut self, capability: &pci::Msix) {
        let changes = self.table.follow(capability);
        match capability.enabled() {
            false => self.vectors.disable(),
            // One vector puts the device into MSI-X mode; more come as they are unmasked.
            true if self.vectors.enabled() == 0 => self.vectors.enable(1),
            true => (),
        }
        self.apply(changes);
    }

    pub fn set_requester(&mut self, requester: Bdf) {
        self.vectors.set_requester(requester);
    }

    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.table.read_table(offset, data);
    }

    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let changes = self.table.write_table(offset, data);
        self.apply(changes);
    }

    /// Reads the pending bits, after a look at what has arrived for masked vectors.
    pub fn read_pending(&mut self, offset: u64, data: &mut [u8]) {
        let first = offset.saturating_mul(8).min(2048) as u16;
        let bits = data.len().saturating_mul(8).min(2048) as u16;
        for vector in self.vectors.pending(first, first + bits) {
            self.table.set_pending(vector, true);
        }
        self.table.read_pending(offset, data);
    }

    /// The device has been reset, or is about to be.
    pub fn reset(&mut self) {
        self.vectors.disable();
        self.table.reset();
    }

    pub fn state(&self) -> VectorsState {
        self.vectors.state()
    }

    fn apply(&mut self, changes: Vec<VectorChange>) {
        for change in changes {
            match change {
                // What is pending the vectors know for themselves.
                VectorChange::Live {
                    vector, message, ..
                }
                | VectorChange::Rerouted { vector, message } => {
                    self.vectors.unmask(vector, message);
                }
                VectorChange::Masked { vector } => self.vectors.mask(vector),
            }
        }
    }
}

fn range(at: InBar, len: u64, bar: BarIndex) -> Range<u64> {
    if at.bar != bar {
        return 0..0;
    }
    let start = u64::from(at.offset);
    start..start + len
}
