//! Reading the guest's tables, and marking entries in them. Nothing here trusts an address: what
//! is not RAM is `None`.

use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory as _};

/// Guest RAM.
pub(super) type GuestRam = GuestMemoryMmap<()>;

/// One aligned 64-bit entry, read at once.
pub(super) fn read_entry(memory: &GuestRam, address: u64) -> Option<u64> {
    memory.load(GuestAddress(address), Ordering::Acquire).ok()
}

/// One entry of several quadwords. Software makes it present by writing the lowest one last, so
/// that is read on both sides of the others; if it keeps changing, the last one counts.
pub(super) fn read_quads<const N: usize>(memory: &GuestRam, address: u64) -> Option<[u64; N]> {
    const TRIES: usize = 4;
    let mut quads = [0; N];
    quads[0] = read_entry(memory, address)?;
    for _ in 0..TRIES {
        for (quad, at) in quads.iter_mut().zip((0..).step_by(8)).skip(1) {
            *quad = read_entry(memory, address.checked_add(at)?)?;
        }
        let again = read_entry(memory, address)?;
        if again == quads[0] {
            break;
        }
        quads[0] = again;
    }
    Some(quads)
}

/// One aligned 128-bit entry.
pub(super) fn read_wide_entry(memory: &GuestRam, address: u64) -> Option<u128> {
    read_quads(memory, address).map(|[low, high]| wide(low, high))
}

/// Puts an aligned 64-bit entry in the place of another one, at once; false if that is not there
/// any more.
pub(super) fn exchange_entry(memory: &GuestRam, address: u64, old: u64, new: u64) -> Option<bool> {
    let slice = memory.get_slice(GuestAddress(address), 8).ok()?;
    let entry = slice.get_atomic_ref::<AtomicU64>(0).ok()?;
    let done = entry.compare_exchange(
        old.to_le(),
        new.to_le(),
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    Some(done.is_ok())
}

/// Two quadwords as one.
pub(super) fn wide(low: u64, high: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}
