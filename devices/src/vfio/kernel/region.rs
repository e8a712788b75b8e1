//! Where the kernel keeps a region and what of it can be mapped: VFIO_DEVICE_GET_REGION_INFO
//! and the chain of capabilities in its answer.

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_CAPS,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE, VFIO_TYPE,
};

use crate::vfio::backend::{PAGE, RegionInfo};

nix::ioctl_readwrite_bad!(
    vfio_device_get_region_info,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 8),
    u32
);

/// Words of `struct vfio_region_info`: argsz, flags, index, cap_offset, size, offset.
const HEADER: usize = 8;
/// More than any answer takes; what says otherwise is not believed.
const MOST: usize = 1 << 16;

/// A region, and where it is in the device's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KernelRegion {
    pub info: RegionInfo,
    offset: u64,
}

impl KernelRegion {
    pub const NONE: Self = Self {
        info: RegionInfo {
            size: 0,
            readable: false,
            writable: false,
            mappable: Vec::new(),
        },
        offset: 0,
    };

    /// Asks about the region with this index.
    pub fn ask(fd: RawFd, index: u32) -> io::Result<Self> {
        let mut words = vec![0; HEADER];
        get(fd, index, &mut words)?;
        let needed = (word(&words, 0) as usize / 4).min(MOST);
        if word(&words, 1) & VFIO_REGION_INFO_FLAG_CAPS != 0 && needed > HEADER {
            words.resize(needed, 0);
            get(fd, index, &mut words)?;
        }
        Ok(Self::parse(&words))
    }

    fn parse(words: &[u32]) -> Self {
        let flags = word(words, 1);
        let size = wide(words, 4);
        // The kernel lets less than a page be mapped where the rest of it is nobody else's.
        let whole = match size {
            1..PAGE => 0..PAGE,
            _ => 0..size - size % PAGE,
        };
        let mappable = if flags & VFIO_REGION_INFO_FLAG_MMAP == 0 {
            Vec::new()
        } else if flags & VFIO_REGION_INFO_FLAG_CAPS != 0 {
            sparse_areas(words, size).unwrap_or_else(|| vec![whole])
        } else {
            vec![whole]
        };
        Self {
            info: RegionInfo {
                size,
                readable: flags & VFIO_REGION_INFO_FLAG_READ != 0,
                writable: flags & VFIO_REGION_INFO_FLAG_WRITE != 0,
                mappable: mappable.into_iter().filter(|r| !r.is_empty()).collect(),
            },
            offset: wide(words, 6),
        }
    }

    /// The offset in the device's file of `len` bytes at `offset` in the region.
    pub fn locate(&self, offset: u64, len: usize) -> io::Result<u64> {
        self.locate_within(self.info.size, offset, len)
    }

    /// As [`Self::locate`], of what is to be mapped: up to the end of the last page.
    pub fn locate_mapping(&self, offset: u64, len: usize) -> io::Result<u64> {
        let size = self.info.size.checked_next_multiple_of(PAGE).unwrap_or(0);
        self.locate_within(size, offset, len)
    }

    fn locate_within(&self, size: u64, offset: u64, len: usize) -> io::Result<u64> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.offset
            .checked_add(offset)
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

fn get(fd: RawFd, index: u32, words: &mut [u32]) -> io::Result<()> {
    let size = size_of_val(words) as u32;
    for (word, value) in words.iter_mut().zip([size, 0, index]) {
        *word = value;
    }
    // SAFETY: `words` is at least as long as `struct vfio_region_info` and says how long it
    // is; the kernel writes no more than that.
    unsafe { vfio_device_get_region_info(fd, words.as_mut_ptr()) }?;
    Ok(())
}

fn word(words: &[u32], index: usize) -> u32 {
    words.get(index).copied().unwrap_or(0)
}

fn wide(words: &[u32], index: usize) -> u64 {
    u64::from(word(words, index + 1)) << 32 | u64::from(word(words, index))
}

/// The areas of the sparse-mmap capability, if there is one: each cut to whole pages within
/// the region. The chain is walked at most as often as it can have entries.
fn sparse_areas(words: &[u32], size: u64) -> Option<Vec<Range<u64>>> {
    let mut at = word(words, 3) as usize / 4;
    for _ in 0..words.len() {
        if at < HEADER || at + 2 > words.len() {
            return None;
        }
        // struct vfio_info_cap_header: id and version, then the next one's offset.
        if word(words, at) & 0xffff == VFIO_REGION_INFO_CAP_SPARSE_MMAP {
            // Then nr_areas, reserved, and for each area its offset and size.
            let count = (word(words, at + 2) as usize).min(words.len() / 4);
            let areas = (0..count).map(|n| {
                let entry = at + 4 + 4 * n;
                let start = wide(words, entry);
                let end = start.saturating_add(wide(words, entry + 2)).min(size);
                start.next_multiple_of(PAGE)..end - end % PAGE
            });
            return Some(areas.collect());
        }
        at = word(words, at + 1) as usize / 4;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: u32 = VFIO_REGION_INFO_FLAG_READ
        | VFIO_REGION_INFO_FLAG_WRITE
        | VFIO_REGION_INFO_FLAG_MMAP
        | VFIO_REGION_INFO_FLAG_CAPS;

    fn answer(flags: u32, size: u64, chain: &[u32]) -> Vec<u32> {
        let mut words = vec![0, flags, 0, 32, size as u32, (size >> 32) as u32, 0, 1];
        words.extend(chain);
        words
    }

    fn whole(len: u64) -> Vec<Range<u64>> {
        std::iter::once(0..len).collect()
    }

    #[test]
    fn a_plain_region_is_mapped_whole() {
        let region = KernelRegion::parse(&answer(ALL & !8, 0x4000, &[]));
        assert_eq!(region.info.mappable, whole(0x4000));
        assert_eq!(region.locate(0x3ffc, 4).unwrap(), (1 << 32) + 0x3ffc);
        assert!(region.locate(0x3ffd, 4).is_err());
        assert!(region.locate(u64::MAX, 4).is_err());
    }

    #[test]
    fn less_than_a_page_is_mapped_as_one_where_the_kernel_says_so() {
        let region = KernelRegion::parse(&answer(ALL & !8, 0x800, &[]));
        assert_eq!(region.info.mappable, whole(PAGE));
        assert_eq!(region.locate_mapping(0, 0x1000).unwrap(), 1 << 32);
        assert!(region.locate_mapping(0, 0x1001).is_err());
        assert!(region.locate(0, 0x801).is_err());
        let flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        let region = KernelRegion::parse(&answer(flags, 0x800, &[]));
        assert!(region.info.mappable.is_empty());
    }

    #[test]
    fn follows_the_chain_to_the_sparse_areas() {
        // MSIX_MAPPABLE at 32, then a sparse capability at 40 with two areas.
        let chain = [
            3 | 1 << 16,
            40,
            1 | 1 << 16,
            0,
            2,
            0,
            0,
            0,
            0x2000,
            0,
            0x3000,
            0,
            0x1000,
            0,
        ];
        let region = KernelRegion::parse(&answer(ALL, 0x4000, &chain));
        assert_eq!(region.info.mappable, [0..0x2000, 0x3000..0x4000]);
    }

    #[test]
    fn a_chain_that_loops_or_leaves_the_answer_ends() {
        for next in [32, 36, 4, 0xffff_fffc] {
            let region = KernelRegion::parse(&answer(ALL, 0x4000, &[3, next]));
            assert_eq!(region.info.mappable, whole(0x4000));
        }
    }

    proptest! {
        #[test]
        fn whatever_the_answer_the_areas_lie_in_the_region(
            words in prop::collection::vec(any::<u32>(), 0..64),
            small in prop::collection::vec(0u32..16, 64),
            from_small in any::<bool>(),
        ) {
            let words = if from_small { small } else { words };
            let region = KernelRegion::parse(&words);
            for area in &region.info.mappable {
                let size = region.info.size.max(PAGE);
                prop_assert!(area.start < area.end && area.end <= size);
                prop_assert!(area.start % PAGE == 0 && area.end % PAGE == 0);
            }
        }
    }
}
