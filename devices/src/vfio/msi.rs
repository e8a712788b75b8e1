//! MSI of an assigned device (PCIe 6.0 §7.7.1): up to 32 vectors, enabled all at once.

use pci::{Bdf, ConfigSpace};

use super::vectors::Vectors;

/// Brings the vectors to what the capability says. Called after every write that may have
/// changed it; a vector whose message stays the same is not touched.
pub(super) fn follow(vectors: &mut Vectors, space: &ConfigSpace, requester: Bdf) {
    let Some(msi) = space.msi().filter(|msi| msi.enabled()) else {
        vectors.disable();
        return;
    };
    if vectors.enabled() == 0 {
        vectors.set_requester(requester);
        vectors.enable(msi.vectors().into());
    }
    // What the guest took for itself after it had enabled MSI (it should not) stays dead.
    for vector in 0..vectors.enabled().min(32) as u8 {
        match msi.message(vector) {
            Some(message) => vectors.unmask(vector.into(), message),
            None => vectors.mask(vector.into()),
        }
    }
}

/// The pending bits, as the register has them.
pub(super) fn pending(vectors: &mut Vectors) -> u32 {
    let pending = vectors.pending(0, 32).into_iter();
    pending.fold(0, |bits, vector| bits | 1 << (vector & 31))
}
