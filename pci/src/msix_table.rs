//! The MSI-X vector table and its pending bits (PCIe 6.0 §7.7.2.5 to §7.7.2.9).
//!
//! One value for both kinds of function: an emulated one asks it what to send
//! ([`MsixTable::signal`]); an assigned one, whose table page is trapped, does what the
//! returned [`VectorChange`]s say to its routes. A vector is *live* when MSI-X is enabled
//! and neither the function nor the vector is masked.
//!
//! **Reset** masks every vector and clears everything else.

use crate::registers::VectorControl;
use crate::split::pieces;
use crate::{MsiMessage, Msix};

/// Bytes of a table entry.
const ENTRY: u64 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
struct Entry {
    message: MsiMessage,
    control: VectorControl,
}

impl Entry {
    /// Masked, as after reset.
    const RESET: Self = Self {
        message: MsiMessage {
            address: 0,
            data: 0,
        },
        control: VectorControl(1),
    };

    fn dword(&self, index: u64) -> u32 {
        match index & 3 {
            0 => self.message.address as u32,
            1 => (self.message.address >> 32) as u32,
            2 => self.message.data,
            _ => self.control.0,
        }
    }

    fn set_dword(&mut self, index: u64, value: u32) {
        let address = self.message.address;
        match index & 3 {
            0 => self.message.address = address & !0xffff_ffff | u64::from(value & !3),
            1 => self.message.address = address & 0xffff_ffff | u64::from(value) << 32,
            2 => self.message.data = value,
            _ => self.control = VectorControl(value & 1),
        }
    }
}

/// What became of a vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VectorChange {
    /// It is live now and was not. If `pending`, an interrupt was waiting, no longer is,
    /// and is to be sent now.
    Live {
        /// Which vector.
        vector: u16,
        /// What it sends.
        message: MsiMessage,
        /// Send it now.
        pending: bool,
    },
    /// It was live and is not.
    Masked {
        /// Which vector.
        vector: u16,
    },
    /// It is live, as before, and sends something else.
    Rerouted {
        /// Which vector.
        vector: u16,
        /// What it sends now.
        message: MsiMessage,
    },
}

/// A vector table with its pending bits and the two switches over them.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MsixTable {
    entries: Vec<Entry>,
    pending: Vec<u64>,
    enabled: bool,
    function_masked: bool,
}

impl MsixTable {
    /// A table of `vectors` vectors, 1 to 2048, all masked.
    pub fn new(vectors: u16) -> Self {
        let vectors = usize::from(vectors.clamp(1, 2048));
        Self {
            entries: vec![Entry::RESET; vectors],
            pending: vec![0; vectors.div_ceil(64)],
            enabled: false,
            function_masked: false,
        }
    }

    /// The number of vectors.
    pub fn vectors(&self) -> u16 {
        self.entries.len() as u16
    }

    /// Bytes of the vector table.
    pub fn table_size(&self) -> u64 {
        ENTRY * self.entries.len() as u64
    }

    /// Bytes of the pending bits.
    pub fn pending_size(&self) -> u64 {
        8 * self.pending.len() as u64
    }

    /// The message of a live vector.
    pub fn message(&self, vector: u16) -> Option<MsiMessage> {
        let entry = self.entries.get(usize::from(vector))?;
        let live = self.enabled && !self.function_masked && !entry.control.mask();
        live.then_some(entry.message)
    }

    /// The message of a vector, live or not.
    pub fn entry_message(&self, vector: u16) -> Option<MsiMessage> {
        Some(self.entries.get(usize::from(vector))?.message)
    }

    /// The vector's pending bit.
    pub fn is_pending(&self, vector: u16) -> bool {
        let word = self.pending.get(usize::from(vector / 64));
        word.is_some_and(|word| word & 1 << (vector % 64) != 0)
    }

    /// An interrupt on a vector: the message to send now, if any. One that is masked is
    /// noted as pending; one of a function whose MSI-X is off is lost.
    pub fn signal(&mut self, vector: u16) -> Option<MsiMessage> {
        let message = self.message(vector);
        if message.is_none() && self.enabled {
            self.set_pending(vector, true);
        }
        message
    }

    /// Sets or clears a pending bit, as the device knows better than the table.
    pub fn set_pending(&mut self, vector: u16, pending: bool) {
        if vector >= self.vectors() {
            return;
        }
        if let Some(word) = self.pending.get_mut(usize::from(vector / 64)) {
            let bit = 1 << (vector % 64);
            *word = if pending { *word | bit } else { *word & !bit };
        }
    }

    /// Follows the capability: to be called when a config write gave
    /// [`crate::Changes::INTERRUPTS`]. Disabling MSI-X forgets what was pending.
    pub fn follow(&mut self, capability: &Msix) -> Vec<VectorChange> {
        let was_live = self.enabled && !self.function_masked;
        self.enabled = capability.enabled();
        self.function_masked = capability.function_masked();
        if !self.enabled {
            self.pending.fill(0);
        }
        if was_live == (self.enabled && !self.function_masked) {
            return Vec::new();
        }
        (0..self.vectors())
            .filter_map(|vector| {
                let unmasked = !self.entries.get(usize::from(vector))?.control.mask();
                let before = (was_live && unmasked).then(MsiMessage::default);
                self.change(vector, before)
            })
            .collect()
    }

    /// What a vector that had this message while live, or was not live, has become.
    fn change(&mut self, vector: u16, before: Option<MsiMessage>) -> Option<VectorChange> {
        match (before, self.message(vector)) {
            (None, Some(message)) => {
                let pending = self.is_pending(vector);
                self.set_pending(vector, false);
                Some(VectorChange::Live {
                    vector,
                    message,
                    pending,
                })
            }
            (Some(_), None) => Some(VectorChange::Masked { vector }),
            (Some(old), Some(message)) if old != message => {
                Some(VectorChange::Rerouted { vector, message })
            }
            _ => None,
        }
    }

    /// Reads the vector table. Beyond its end everything is zero.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        for piece in pieces(offset, data.len()) {
            let entry = self.entry_at(piece.base);
            let value = entry.map_or(0, |entry| entry.dword(piece.base / 4));
            piece.fill(value, data);
        }
    }

    /// Writes the vector table and says what became of the vectors touched. The manual
    /// knows aligned writes of 4 and 8 bytes; any other changes the bytes it names.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) -> Vec<VectorChange> {
        let mut changes = Vec::new();
        for piece in pieces(offset, data.len()) {
            let Some(&entry) = self.entry_at(piece.base) else {
                continue;
            };
            let vector = (piece.base / ENTRY) as u16;
            let before = self.message(vector);
            let mut new = entry;
            new.set_dword(
                piece.base / 4,
                piece.merge(entry.dword(piece.base / 4), data),
            );
            if let Some(slot) = self.entries.get_mut(usize::from(vector)) {
                *slot = new;
            }
            changes.extend(self.change(vector, before));
        }
        changes
    }

    fn entry_at(&self, offset: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(offset / ENTRY).ok()?)
    }

    /// Reads the pending bits; software cannot write them. Beyond their end everything is
    /// zero.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for piece in pieces(offset, data.len()) {
            let word = usize::try_from(piece.base / 8)
                .ok()
                .and_then(|i| self.pending.get(i))
                .copied()
                .unwrap_or(0);
            piece.fill((word >> (8 * (piece.base & 4))) as u32, data);
        }
    }

    /// As after power-on: disabled, every vector masked.
    pub fn reset(&mut self) {
        self.entries.fill(Entry::RESET);
        self.pending.fill(0);
        self.enabled = false;
        self.function_masked = false;
    }
}
