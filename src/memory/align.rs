//! Mappings at addresses of which larger pages than the smallest can be made.
//!
//! Address, place in the file and guest-physical address must be the same modulo the larger
//! page. The kernel sees to that for a memfd only while `shmem_enabled` is on.

use std::io;
use std::ops::Range;
use std::ptr::null_mut;

use nix::libc;
use vm_memory::MmapRegion;

/// The size of a transparent huge page.
pub const HUGE_PAGE: usize = 2 << 20;

const SMALL_PAGE: usize = 4096;
/// There may be other holes to be filled first, and other threads that map something.
const ATTEMPTS: u32 = 16;

/// Maps `size` bytes with `map` where the address is a multiple of `alignment`. As that is
/// good for speed only, the mapping is anywhere if it cannot be had.
///
/// A mapping owns its addresses from the kernel's choosing on, so the choice is narrowed:
/// wherever it would go otherwise is taken, and of the rest a place just right is free.
pub fn aligned(
    size: usize,
    alignment: usize,
    map: impl Fn() -> io::Result<MmapRegion>,
) -> io::Result<MmapRegion> {
    let mut region = map()?;
    let mut elsewhere = Vec::new();
    for _ in 0..ATTEMPTS {
        if (region.as_ptr() as usize).is_multiple_of(alignment) {
            return Ok(region);
        }
        let Ok(_hole) = Hole::open(size, alignment) else {
            break;
        };
        elsewhere.push(std::mem::replace(&mut region, map()?));
    }
    if !(region.as_ptr() as usize).is_multiple_of(alignment) {
        tracing::debug!(address = ?region.as_ptr(), "guest memory is not aligned");
    }
    Ok(region)
}

/// Free addresses between two ranges that are kept from use.
struct Hole {
    below: Range<usize>,
    above: Range<usize>,
}

impl Hole {
    fn open(size: usize, alignment: usize) -> io::Result<Self> {
        let size = size.next_multiple_of(SMALL_PAGE);
        let all = reserve(size + alignment + SMALL_PAGE)?;
        let start = (all.start + SMALL_PAGE).next_multiple_of(alignment);
        // SAFETY: the range is a part of `all`, which nothing else knows of.
        unsafe { free(&(start..start + size)) };
        Ok(Self {
            below: all.start..start,
            above: start + size..all.end,
        })
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        for range in [&self.below, &self.above] {
            // SAFETY: it is what `open` has kept, and nothing else knows of it.
            unsafe { free(range) };
        }
    }
}

/// Takes addresses with nothing behind them.
fn reserve(size: usize) -> io::Result<Range<usize>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no other.
    let start = unsafe { libc::mmap(null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = start as usize;
    Ok(start..start + size)
}

/// Gives addresses back.
///
/// # Safety
/// They are reserved, and nobody else uses them.
unsafe fn free(range: &Range<usize>) {
    if !range.is_empty() {
        // SAFETY: the caller's promise.
        let result = unsafe { libc::munmap(range.start as *mut _, range.len()) };
        debug_assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::mmap::MmapRegionBuilder;

    fn mapping(size: usize) -> io::Result<MmapRegion> {
        MmapRegionBuilder::new(size)
            .with_mmap_prot(libc::PROT_NONE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            .build()
            .map_err(io::Error::other)
    }

    #[test]
    fn mappings_of_any_size_are_aligned() {
        // Less than a huge page, so that the kernel does not do it by itself.
        let alignment = HUGE_PAGE / 2;
        for size in [alignment + SMALL_PAGE, alignment + HUGE_PAGE / 4] {
            let kept: Vec<_> = (0..5)
                .map(|_| aligned(size, alignment, || mapping(size)).unwrap())
                .collect();
            for region in &kept {
                assert_eq!(region.as_ptr() as usize % alignment, 0, "{size:#x}");
                assert_eq!(region.size(), size);
            }
        }
    }

    #[test]
    fn a_hole_leaves_nothing() {
        let hole = Hole::open(HUGE_PAGE, HUGE_PAGE).unwrap();
        let (below, above) = (hole.below.clone(), hole.above.clone());
        assert!(!below.is_empty() && below.end.is_multiple_of(HUGE_PAGE));
        assert_eq!(above.start - below.end, HUGE_PAGE);
        let mapped = |range: &Range<usize>| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let starts = |line: &str| {
                let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
                let number = |text| usize::from_str_radix(text, 16).unwrap();
                number(start) <= range.start && range.end <= number(end)
            };
            maps.lines().any(starts)
        };
        assert!(mapped(&below) && mapped(&above));
        drop(hole);
        assert!(!(mapped(&below) && mapped(&above)));
    }

    #[test]
    fn a_refusal_is_passed_on() {
        let refused = aligned(HUGE_PAGE, HUGE_PAGE, || {
            Err(io::Error::from_raw_os_error(libc::ENOMEM))
        });
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENOMEM));
    }
}
