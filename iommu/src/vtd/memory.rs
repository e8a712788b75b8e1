//! Reading the guest's tables. Nothing here trusts an address: what is not RAM is `None`.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Guest RAM.
pub(super) type GuestRam = GuestMemoryMmap<()>;

/// One aligned 64-bit entry, read at once.
pub(super) fn read_entry(memory: &GuestRam, address: u64) -> Option<u64> {
    memory.load(GuestAddress(address), Ordering::Acquire).ok()
}

/// One aligned 128-bit entry. Software makes it present by writing the low half last, so the
/// low half is read on both sides of the high half; if it keeps changing, the last one counts.
pub(super) fn read_wide_entry(memory: &GuestRam, address: u64) -> Option<u128> {
    const TRIES: usize = 4;
    let mut low = read_entry(memory, address)?;
    let mut high = 0;
    for _ in 0..TRIES {
        high = read_entry(memory, address.checked_add(8)?)?;
        let again = read_entry(memory, address)?;
        if again == low {
            break;
        }
        low = again;
    }
    Some(u128::from(high) << 64 | u128::from(low))
}
