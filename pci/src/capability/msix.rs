//! The MSI-X capability (PCIe 6.0 §7.7.2): where the table is, and the two switches over
//! all of it. The table itself is [`crate::MsixTable`].

use super::{Dword, InBar};
use crate::registers::MsixControl;
use crate::space::Image;

/// The MSI-X capability and its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Msix {
    control: MsixControl,
    table: InBar,
    pending: InBar,
}

impl Msix {
    /// A capability for `vectors` vectors (1 to 2048), with its table and pending bits at
    /// these places.
    pub fn new(vectors: u16, table: InBar, pending: InBar) -> Self {
        let mut control = MsixControl(0);
        control.set_table_size(vectors.clamp(1, 2048) - 1);
        Self {
            control,
            table,
            pending,
        }
    }

    /// MSI-X is enabled, so neither MSI nor INTx is used.
    pub fn enabled(&self) -> bool {
        self.control.enable()
    }

    /// All vectors are masked.
    pub fn function_masked(&self) -> bool {
        self.control.function_mask()
    }

    /// The number of vectors.
    pub fn vectors(&self) -> u16 {
        self.control.table_size() + 1
    }

    /// Where the vector table is.
    pub fn table(&self) -> InBar {
        self.table
    }

    /// Where the pending bits are.
    pub fn pending(&self) -> InBar {
        self.pending
    }

    pub(super) fn dwords(&self) -> Vec<Dword> {
        let place = |at: InBar| Dword::fixed(at.offset & !7 | u32::from(at.bar.0 & 7));
        // MSI-X Enable and Function Mask.
        let control = Dword::new(u32::from(self.control.0) << 16, 0xc000_0000, 0);
        vec![control, place(self.table), place(self.pending)]
    }

    pub(super) fn load(&mut self, image: &Image, at: u16) {
        self.control = MsixControl(image.get_u16(at + 2));
    }
}
