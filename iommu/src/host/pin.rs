//! All guest RAM for assigned devices: mapped at its guest-physical addresses, which pins
//! it, since a device cannot take a page fault.

use std::ops::Range;
use std::sync::Arc;

use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::{HostMapper, MapError};

/// Bytes mapped by one request. Large enough for the IOMMU's largest pages, small enough
/// that progress can be shown: the kernel pins a few GiB a second.
const CHUNK: u64 = 1 << 30;

/// Guest RAM that the devices of a container reach. Dropping it unmaps the memory, so it
/// must outlive every device that may still do DMA.
pub struct PinnedMemory {
    mapper: Arc<dyn HostMapper>,
    mapped: Vec<Range<u64>>,
    // Keeps the memory while the IOMMU maps it.
    _ram: Arc<GuestMemoryMmap<()>>,
}

impl PinnedMemory {
    /// Bytes pinned.
    pub fn len(&self) -> u64 {
        self.mapped.iter().map(|r| r.end - r.start).sum()
    }

    /// True if the guest has no memory.
    pub fn is_empty(&self) -> bool {
        self.mapped.is_empty()
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        for range in &self.mapped {
            if let Err(error) = self.mapper.unmap(range.start, range.end - range.start) {
                tracing::warn!(%error, cause = %error.source, "guest memory stays mapped for devices");
            }
        }
    }
}

/// Why guest RAM could not be given to devices.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// `RLIMIT_MEMLOCK` is too low.
    #[error(
        "assigned devices need all of guest memory locked{}, {needed} KiB with what is locked already, \
         but the limit is {limit} KiB: \
         raise it with `ulimit -l {needed}` as root, LimitMEMLOCK={needed}K in a systemd unit, \
         or a memlock line in /etc/security/limits.conf",
        each(*.spaces)
    )]
    LockLimit {
        /// KiB of guest memory, and of what is locked already.
        needed: u64,
        /// In so many address spaces.
        spaces: u64,
        /// KiB that this process may lock.
        limit: u64,
    },
    /// The host has no memory left.
    #[error("the host has too little free memory to pin {needed} KiB of guest memory")]
    NoMemory {
        /// KiB of guest memory.
        needed: u64,
    },
    /// The IOMMU cannot map such an address.
    #[error(
        "the host's IOMMU cannot map guest memory at {address:#x}: the address is reserved \
         or beyond its width"
    )]
    Address {
        /// First guest-physical address of the chunk.
        address: u64,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
    /// Anything else.
    #[error("cannot map guest memory for devices")]
    Map(#[source] MapError),
}

/// Whether this process may lock all of `ram` in so many more address spaces, as [`pin_memory`]
/// asks too: to be asked before work that a refusal would make useless.
pub fn check_lock_limit(ram: &GuestMemoryMmap<()>, spaces: u64) -> Result<(), PinError> {
    LockLimit::of_this_process().check(size(ram) >> 10, spaces)
}

fn each(spaces: u64) -> String {
    match spaces {
        1 => String::new(),
        _ => format!(" once for each of {spaces} address spaces"),
    }
}

fn size(ram: &GuestMemoryMmap<()>) -> u64 {
    ram.iter().map(|region| region.len()).sum()
}

/// Maps all of `ram` for the devices behind `mapper`, calling `progress` with the bytes done
/// and in all, first with none done and then after each chunk. If a chunk fails, those before
/// it are unmapped again; if this process may not lock as much, none is mapped.
pub fn pin_memory(
    mapper: Arc<dyn HostMapper>,
    ram: Arc<GuestMemoryMmap<()>>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<PinnedMemory, PinError> {
    let total = size(&ram);
    let limit = LockLimit::of_this_process();
    limit.check(total >> 10, 1)?;
    let mut pinned = PinnedMemory {
        mapper: Arc::clone(&mapper),
        mapped: Vec::new(),
        _ram: Arc::clone(&ram),
    };
    let mut done = 0;
    progress(done, total);
    for region in ram.iter() {
        let start = region.start_addr().raw_value();
        for chunk in chunks(start, region.len()) {
            let len = chunk.end - chunk.start;
            let host = region.as_ptr().wrapping_add((chunk.start - start) as usize);
            // SAFETY: `host..host + len` lies in a region of `ram`, which `pinned` keeps
            // until it has unmapped it.
            unsafe { mapper.map(chunk.start, host, len, true) }
                .map_err(|error| explain(error, total >> 10, limit))?;
            pinned.mapped.push(chunk);
            done += len;
            progress(done, total);
        }
    }
    Ok(pinned)
}

/// Cuts `len` bytes at `start` where addresses are multiples of [`CHUNK`].
fn chunks(start: u64, len: u64) -> impl Iterator<Item = Range<u64>> {
    let end = start.saturating_add(len);
    let mut at = start;
    std::iter::from_fn(move || {
        let first = at;
        at = (first - first % CHUNK).saturating_add(CHUNK).min(end);
        (first < end).then_some(first..at)
    })
}

/// How much memory this process may lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LockLimit {
    /// CAP_IPC_LOCK or no limit.
    None,
    /// So many, beside what is locked already.
    KiB { limit: u64, locked: u64 },
}

impl LockLimit {
    fn of_this_process() -> Self {
        let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((0, 0));
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if soft == libc::RLIM_INFINITY || may_lock_anything(&status) {
            Self::None
        } else {
            Self::KiB {
                limit: soft >> 10,
                locked: locked_kib(&status),
            }
        }
    }

    /// Whether `needed` KiB more may be locked, so many times.
    fn check(self, needed: u64, spaces: u64) -> Result<(), PinError> {
        let needed = needed.saturating_mul(spaces);
        match self {
            Self::KiB { limit, locked } if limit.saturating_sub(locked) < needed => {
                let needed = needed.saturating_add(locked);
                Err(PinError::LockLimit {
                    needed,
                    spaces,
                    limit,
                })
            }
            _ => Ok(()),
        }
    }
}

/// What this process has locked, by mlock and by type1 (VmLck) and by iommufd (VmPin).
fn locked_kib(status: &str) -> u64 {
    let kib = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    kib("VmLck:").saturating_add(kib("VmPin:"))
}

/// CAP_IPC_LOCK (bit 14) in the effective set of a `/proc/PID/status`.
fn may_lock_anything(status: &str) -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set & CAP_IPC_LOCK != 0)
}

/// The kernel says ENOMEM for the lock limit and for want of memory alike, and EINVAL for
/// an address outside the IOMMU's valid ranges.
fn explain(error: MapError, needed: u64, limit: LockLimit) -> PinError {
    match (error.source.raw_os_error(), limit) {
        (Some(libc::ENOMEM), limit) => match limit.check(needed, 1) {
            Err(error) => error,
            Ok(()) => PinError::NoMemory { needed },
        },
        (Some(libc::EINVAL | libc::ERANGE), _) => PinError::Address {
            address: error.iova,
            source: error,
        },
        _ => PinError::Map(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io;
    use std::sync::Mutex;
    use vm_memory::GuestAddress;

    /// Keeps what is mapped; refuses the `fail_at`th map.
    #[derive(Default)]
    struct Recorder {
        live: Mutex<Vec<Range<u64>>>,
        fail_at: Option<(usize, i32)>,
    }

    impl HostMapper for Recorder {
        // SAFETY: nothing is done with the memory.
        unsafe fn map(&self, iova: u64, _: *mut u8, len: u64, _: bool) -> Result<(), MapError> {
            let mut live = self.live.lock().unwrap();
            match self.fail_at {
                Some((n, errno)) if live.len() == n => Err(MapError {
                    operation: "map",
                    iova,
                    len,
                    source: io::Error::from_raw_os_error(errno),
                }),
                _ => {
                    live.push(iova..iova + len);
                    Ok(())
                }
            }
        }

        fn unmap(&self, iova: u64, len: u64) -> Result<(), MapError> {
            self.live
                .lock()
                .unwrap()
                .retain(|r| *r != (iova..iova + len));
            Ok(())
        }
    }

    fn ram(ranges: &[(u64, usize)]) -> Arc<GuestMemoryMmap<()>> {
        let ranges: Vec<_> = ranges
            .iter()
            .map(|&(at, len)| (GuestAddress(at), len))
            .collect();
        Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
    }

    #[test]
    fn pins_in_chunks_with_progress_and_unpins_on_drop() {
        let mapper = Arc::new(Recorder::default());
        let memory = ram(&[(0, 0x9000_0000), (1 << 32, 0x1000)]);
        let mut steps = Vec::new();
        let pinned = pin_memory(mapper.clone(), memory, &mut |done, total| {
            steps.push((done, total));
        })
        .unwrap();
        let total = 0x9000_1000;
        assert_eq!(
            steps,
            [0, 0x4000_0000, 0x8000_0000, 0x9000_0000, total].map(|done| (done, total))
        );
        assert_eq!(pinned.len(), total);
        assert_eq!(mapper.live.lock().unwrap().len(), 4);
        drop(pinned);
        assert!(mapper.live.lock().unwrap().is_empty());
    }

    #[test]
    fn a_chunk_that_fails_leaves_nothing_mapped() {
        let mapper = Arc::new(Recorder {
            fail_at: Some((1, libc::EINVAL)),
            ..Default::default()
        });
        let memory = ram(&[(0, 0x1000), (0xfee0_0000, 0x1000)]);
        let error = pin_memory(mapper.clone(), memory, &mut |_, _| ())
            .err()
            .unwrap();
        assert!(matches!(
            error,
            PinError::Address {
                address: 0xfee0_0000,
                ..
            }
        ));
        assert!(mapper.live.lock().unwrap().is_empty());
    }

    #[test]
    fn tells_the_lock_limit_from_want_of_memory() {
        let failed = |errno| MapError {
            operation: "map",
            iova: 0,
            len: 4096,
            source: io::Error::from_raw_os_error(errno),
        };
        let limited = |limit| LockLimit::KiB { limit, locked: 0 };
        let text = explain(failed(libc::ENOMEM), 4 << 20, limited(8192)).to_string();
        assert!(
            text.contains("limit is 8192 KiB") && text.contains("ulimit -l 4194304"),
            "{text}"
        );
        for limit in [LockLimit::None, limited(4 << 20)] {
            assert!(matches!(
                explain(failed(libc::ENOMEM), 4 << 20, limit),
                PinError::NoMemory { .. }
            ));
        }
        assert!(matches!(
            explain(failed(libc::EEXIST), 1, LockLimit::None),
            PinError::Map(_)
        ));
    }

    #[test]
    fn what_is_locked_already_counts() {
        let status = "VmLck:\t     100 kB\nVmPin:\t      28 kB\n";
        let locked = locked_kib(status);
        assert_eq!((locked, locked_kib("")), (128, 0));
        let limit = LockLimit::KiB {
            limit: 1152,
            locked,
        };
        assert!(limit.check(1024, 1).is_ok() && LockLimit::None.check(u64::MAX, 2).is_ok());
        let text = limit.check(1025, 1).unwrap_err().to_string();
        assert!(text.contains("ulimit -l 1153"), "{text}");
        let text = limit.check(1024, 3).unwrap_err().to_string();
        let each = "locked once for each of 3 address spaces, 3200 KiB";
        assert!(text.contains(each), "{text}");
    }

    #[test]
    fn reads_the_effective_capabilities() {
        assert!(may_lock_anything("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_lock_anything(
            "CapPrm:\t0000000000004000\nCapEff:\t0000000000000000\n"
        ));
        assert!(!may_lock_anything(""));
    }

    proptest! {
        #[test]
        fn chunks_tile_the_region(start in 0u64..1 << 45, len in 0u64..1 << 36) {
            let mut at = start;
            for chunk in chunks(start, len) {
                prop_assert_eq!(chunk.start, at);
                prop_assert!(chunk.end > chunk.start && chunk.end - chunk.start <= CHUNK);
                at = chunk.end;
            }
            prop_assert_eq!(at, start + len);
        }
    }
}
