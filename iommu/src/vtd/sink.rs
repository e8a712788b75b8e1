//! What the unit tells the machine around it.

use std::ops::Range;

use pci::{Bdf, MsiMessage};

/// Translations that may be others now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TranslationChange {
    /// Any, of every requester; also when translation is turned on or off.
    All,
    /// Those of some functions of a device: their context entries changed.
    Requesters {
        /// One of them.
        source: Bdf,
        /// How many high bits of the function number do not count, 0 to 3.
        function_mask: u8,
    },
    /// All of a domain.
    Domain(u16),
    /// Those by first-stage tables, alone or nested, of a PASID in a domain.
    Pasid {
        /// The domain.
        domain: u16,
        /// The PASID.
        pasid: u32,
    },
    /// Some of a domain's I/O virtual addresses.
    Pages {
        /// The domain.
        domain: u16,
        /// First I/O virtual address, a multiple of `len`.
        iova: u64,
        /// Bytes, a power of two.
        len: u64,
    },
}

impl TranslationChange {
    /// False if `requester` is surely not affected. It is in `in_domain` if it is translated by
    /// second-stage tables alone.
    pub fn concerns(&self, requester: Bdf, in_domain: Option<u16>) -> bool {
        match *self {
            Self::All => true,
            Self::Requesters {
                source,
                function_mask,
            } => same_requesters(source, function_mask, requester),
            Self::Domain(domain) | Self::Pages { domain, .. } => in_domain == Some(domain),
            Self::Pasid { .. } => in_domain.is_none(),
        }
    }
}

/// Whether `requester` is `source` but for the function bits that `function_mask` leaves out
/// (FM, VT-d 4.1 §6.5.2.1: 1 leaves out bit 2, 2 bits 2:1, 3 all).
pub(super) fn same_requesters(source: Bdf, function_mask: u8, requester: Bdf) -> bool {
    let ignored: u16 = match function_mask {
        0 => 0,
        1 => 0b100,
        2 => 0b110,
        _ => 0b111,
    };
    (source.requester_id() ^ requester.requester_id()) & !ignored == 0
}

/// Who hears of the unit's own interrupts and of what the guest changes.
///
/// Called on the thread that wrote a register or made a request, often while further commands
/// of the guest wait: the unit's registers must not be written from within. Translating,
/// remapping and reading registers are fine.
pub trait VtdSink: Send + Sync {
    /// The unit's own interrupt: a fault, or an invalidation wait that is over. It is in the
    /// compatibility format, with bits 31:8 of a destination in address bits 63:40, and is
    /// not remapped (VT-d 4.1 §5.1.6).
    fn message(&self, message: MsiMessage) {
        let _ = message;
    }

    /// The guest has announced that translations changed, and waits: when this returns, what
    /// is gone must be out of reach of every device.
    fn translations_changed(&self, change: TranslationChange) {
        let _ = change;
    }

    /// The guest has announced that interrupt entries of these indices changed; all if
    /// `None`, also when remapping is turned on or off. Routes made from them are old now.
    fn interrupts_changed(&self, indices: Option<Range<u32>>) {
        let _ = indices;
    }
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deaf;

impl VtdSink for Deaf {}
