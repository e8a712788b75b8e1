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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{BarIndex, Capability, ClassCode, ConfigSpace, ConfigWrite, Ids, InBar, Register};

    /// A space with MSI-X on or off, masked or not.
    fn capability(enabled: bool, masked: bool) -> Msix {
        let mut space = ConfigSpace::endpoint(Ids {
            vendor: 1,
            device: 1,
            revision: 0,
            class: ClassCode {
                base: 2,
                sub: 0,
                interface: 0,
            },
            subsystem_vendor: 0,
            subsystem: 0,
        });
        let place = InBar {
            bar: BarIndex(0),
            offset: 0,
        };
        let at = space.add_capability(Capability::Msix(Msix::new(4, place, place)));
        let value = u32::from(enabled) << 31 | u32::from(masked) << 30;
        let register = Register::containing(at.unwrap().into());
        space.write(ConfigWrite::new(register, value, 0b1100));
        *space.msix().unwrap()
    }

    fn message(data: u32) -> MsiMessage {
        MsiMessage {
            address: 0x1_fee0_0000,
            data,
        }
    }

    fn write(table: &mut MsixTable, offset: u64, value: u32) -> Vec<VectorChange> {
        table.write_table(offset, &value.to_le_bytes())
    }

    /// A table of four with vector 1 programmed and unmasked.
    fn one_ready() -> MsixTable {
        let mut table = MsixTable::new(4);
        table.write_table(16, &0x1_fee0_0003_u64.to_le_bytes());
        write(&mut table, 24, 0x4041);
        assert_eq!(write(&mut table, 28, 0xffff_fffe), [], "MSI-X is off");
        table
    }

    #[test]
    fn a_vector_lives_when_nothing_masks_it() {
        let mut table = one_ready();
        assert_eq!(table.signal(1), None);
        assert!(!table.is_pending(1), "off: lost");
        let live = |pending| VectorChange::Live {
            vector: 1,
            message: message(0x4041),
            pending,
        };
        let masked = VectorChange::Masked { vector: 1 };
        assert_eq!(table.follow(&capability(true, false)), [live(false)]);
        assert_eq!(table.follow(&capability(true, false)), []);
        assert_eq!(table.signal(1), Some(message(0x4041)));
        assert_eq!(write(&mut table, 28, 1), [masked]);
        assert_eq!(table.signal(1), None);
        let mut pending = [0; 8];
        table.read_pending(0, &mut pending);
        assert_eq!(pending, [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(write(&mut table, 28, 0), [live(true)]);
        assert!(!table.is_pending(1));
        assert_eq!(table.follow(&capability(true, true)), [masked]);
        assert_eq!(table.signal(1), None);
        assert_eq!(table.follow(&capability(true, false)), [live(true)]);
        assert_eq!(table.follow(&capability(false, false)), [masked]);
    }

    #[test]
    fn a_live_vector_can_be_rerouted() {
        let mut table = one_ready();
        table.follow(&capability(true, false));
        assert_eq!(write(&mut table, 24, 0x4041), []);
        let rerouted = VectorChange::Rerouted {
            vector: 1,
            message: message(0x42),
        };
        assert_eq!(write(&mut table, 24, 0x42), [rerouted]);
        assert_eq!(write(&mut table, 8, 0x42), [], "vector 0 is masked");
    }

    #[test]
    fn reset_masks_and_forgets() {
        let mut table = one_ready();
        table.follow(&capability(true, true));
        table.signal(1);
        table.reset();
        let mut entry = [0xff; 16];
        table.read_table(16, &mut entry);
        assert_eq!(entry[..12], [0; 12]);
        assert_eq!(entry[12..], [1, 0, 0, 0]);
        assert!(!table.is_pending(1));
        assert_eq!(table.follow(&capability(true, false)), []);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Table(u64, Vec<u8>),
        Signal(u16),
        Follow(bool, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let offset = prop_oneof![8 => 0u64..0xc0, 1 => any::<u64>()];
        prop_oneof![
            6 => (offset, prop::collection::vec(0u8..4, 1..20)).prop_map(|(o, d)| Step::Table(o, d)),
            3 => (0u16..12).prop_map(Step::Signal),
            1 => any::<(bool, bool)>().prop_map(|(e, m)| Step::Follow(e, m)),
        ]
    }

    proptest! {
        /// Whoever follows the changes knows which vectors are live and with what, and an
        /// interrupt is sent, pending or lost by the rules.
        #[test]
        fn changes_tell_it_all(steps in prop::collection::vec(step(), 1..60)) {
            const VECTORS: u16 = 10;
            let mut table = MsixTable::new(VECTORS);
            let mut bytes: Vec<u8> = [0u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0].repeat(10);
            let mut live = vec![None; usize::from(VECTORS)];
            let mut enabled = false;
            for step in steps {
                let changes = match step {
                    Step::Table(offset, data) => {
                        for (i, byte) in data.iter().enumerate() {
                            let at = offset.wrapping_add(i as u64);
                            let kept = match at % 16 { 0 => 0xfc, 12 => 1, 13.. => 0, _ => 0xff };
                            if let Some(b) = bytes.get_mut(at as usize) {
                                *b = byte & kept;
                            }
                        }
                        table.write_table(offset, &data)
                    }
                    Step::Signal(vector) => {
                        let expected = live.get(usize::from(vector)).copied().flatten();
                        let was_pending = table.is_pending(vector);
                        prop_assert_eq!(table.signal(vector), expected);
                        let noted = enabled && expected.is_none() && vector < VECTORS;
                        prop_assert_eq!(table.is_pending(vector), was_pending || noted);
                        Vec::new()
                    }
                    Step::Follow(on, masked) => {
                        enabled = on;
                        table.follow(&capability(on, masked))
                    }
                };
                for change in changes {
                    match change {
                        VectorChange::Live { vector, message, .. } => {
                            let old = live[usize::from(vector)].replace(message);
                            prop_assert_eq!(old, None);
                        }
                        VectorChange::Masked { vector } => {
                            prop_assert!(live[usize::from(vector)].take().is_some());
                        }
                        VectorChange::Rerouted { vector, message } => {
                            let old = live[usize::from(vector)].replace(message);
                            prop_assert!(old.is_some() && old != Some(message));
                        }
                    }
                }
                for vector in 0..VECTORS {
                    prop_assert_eq!(table.message(vector), live[usize::from(vector)]);
                    let waits = live[usize::from(vector)].is_some() && table.is_pending(vector);
                    prop_assert!(!waits, "live and pending");
                }
                let mut seen = vec![0; bytes.len()];
                table.read_table(0, &mut seen);
                prop_assert_eq!(&seen, &bytes);
            }
        }
    }
}
