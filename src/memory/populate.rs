//! Guest RAM found all at once, before the guest runs or a device reaches it.
//!
//! Several threads do it, as most of the time goes into clearing pages. For transparent huge
//! pages the kernel is told to make them here and now (`MADV_COLLAPSE`, Linux 6.1), which it
//! does whatever `shmem_enabled` says, but for `deny`. It takes only places of a file where
//! there is something already, so a page of each is found first: that is six times as fast as
//! to find them all, which would be copied.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use devices::dma::GuestRam;
use nix::libc;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MmapRegion};

use super::align::HUGE_PAGE;
use super::pieces::{self, threads_for, work_off};
use super::ram::{HugePages, RamError};

/// Bytes populated by one call, if pages are not larger: some hundredths of a second.
const PIECE: u64 = 64 << 20;
/// The smallest page.
const PAGE: usize = 4096;

/// Makes the kernel find every page of `ram`, which is made of such `pages`. What is in them
/// stays as it is. `progress` is told the bytes done, now and then.
///
/// A kernel that cannot (before 5.14) is no failure: pages are found when they are needed.
pub fn populate(
    ram: &GuestRam,
    pages: HugePages,
    mut progress: impl FnMut(u64),
) -> Result<(), RamError> {
    let total = ram.iter().map(|region| region.len()).sum();
    let pieces = cut(ram, PIECE.max(pages.pool().unwrap_or(0)));
    let huge = (pages == HugePages::Transparent).then(Collapse::default);
    let work = |piece: &Piece| {
        if let Some(huge) = &huge {
            huge.attempt(piece);
        }
        piece.populate()
    };
    let result = work_off(&pieces, threads_for(total), work, &mut progress);
    if let Some(huge) = &huge {
        huge.report(pieces.len());
    }
    result.map_err(|source| RamError::Kernel {
        wanted: total,
        what: failure(&source),
        source,
    })?;
    progress(total);
    Ok(())
}

/// What could not be done, and what to do about it.
fn failure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        // EFAULT is said where an access would have ended in SIGBUS.
        Some(libc::ENOMEM | libc::EFAULT) => {
            "populate guest memory, the host has too little: use less --memory or end something"
        }
        Some(libc::EHWPOISON) => {
            "populate guest memory, a page of the host's is broken: see the kernel's log and \
             restart the host"
        }
        _ => "populate guest memory",
    }
}

/// A part of a region.
struct Piece<'a> {
    region: &'a MmapRegion,
    offset: usize,
    len: usize,
}

/// Cuts all of `ram` in pieces of at most `size` bytes, in the order of their addresses.
fn cut(ram: &GuestRam, size: u64) -> Vec<Piece<'_>> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    ram.iter()
        .flat_map(|region| {
            (0..region.size()).step_by(size).map(move |offset| Piece {
                region,
                offset,
                len: size.min(region.size() - offset),
            })
        })
        .collect()
}

impl pieces::Piece for Piece<'_> {
    fn len(&self) -> u64 {
        self.len as u64
    }
}

impl Piece<'_> {
    /// Finds its pages.
    fn populate(&self) -> io::Result<()> {
        match self.advise(0, self.len, libc::MADV_POPULATE_WRITE) {
            // The kernel does not know how.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            result => result,
        }
    }

    /// Makes its pages huge, and finds those that are not there.
    fn collapse(&self) -> io::Result<()> {
        let start = self.region.as_ptr() as usize + self.offset;
        let first = start.next_multiple_of(HUGE_PAGE) - start;
        for place in (first..self.len).step_by(HUGE_PAGE) {
            self.advise(place, PAGE, libc::MADV_POPULATE_WRITE)?;
        }
        self.advise(0, self.len, libc::MADV_COLLAPSE)
    }

    /// Gives advice on `len` bytes from `at`, of kinds that change nothing of what is there.
    fn advise(&self, at: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
        let start = self.region.as_ptr().wrapping_add(self.offset + at);
        // SAFETY: the range lies in a live mapping that `self.region` owns, and the two kinds
        // of advice leave its contents as they are.
        match unsafe { libc::madvise(start.cast(), len, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Attempts at huge pages: a wish, so what is refused does no harm.
#[derive(Default)]
struct Collapse {
    /// Pieces.
    refused: AtomicUsize,
    first: OnceLock<io::Error>,
    /// They are not to be had at all, and not only for want of free memory in one place.
    hopeless: AtomicBool,
}

impl Collapse {
    fn attempt(&self, piece: &Piece) {
        if self.hopeless.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = piece.collapse() {
            let hopeless = error.raw_os_error() == Some(libc::EINVAL);
            self.hopeless.fetch_or(hopeless, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
            let _ = self.first.set(error);
        }
    }

    fn report(&self, pieces: usize) {
        if let Some(error) = self.first.get() {
            let refused = self.refused.load(Ordering::Relaxed);
            tracing::debug!(%error, refused, pieces, "guest memory with fewer huge pages");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::align::aligned;
    use crate::memory::layout::{BarDemand, layout};
    use crate::memory::ram::allocate;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::fs::{self, File};
    use vm_memory::{Bytes, FileOffset, GuestAddress, GuestRegionMmap};

    fn ram(mib: u64, pages: HugePages) -> GuestRam {
        let layout = layout(mib << 20, 40, &BarDemand::default()).unwrap();
        allocate(&layout, pages).unwrap()
    }

    /// A line of `/proc/self/smaps` about the first region, in KiB.
    fn smaps(ram: &GuestRam, key: &str) -> u64 {
        let region = ram.iter().next().unwrap();
        let mapping = format!("{:x}-", region.as_ptr() as usize);
        let text = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&mapping));
        let line = lines.find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn every_page_is_there_afterwards_and_the_bytes_count_up() {
        // Two threads' worth where there are two processors, and a last piece that is small.
        let ram = ram(513, HugePages::Off);
        assert_eq!(smaps(&ram, "Rss:"), 0);
        ram.write_obj(0x1122_3344_u32, GuestAddress(0x20_0000))
            .unwrap();
        let mut told = Vec::new();
        populate(&ram, HugePages::Off, |done| told.push(done)).unwrap();
        assert!(told.is_sorted());
        assert_eq!(told.last(), Some(&(513 << 20)));
        assert_eq!(smaps(&ram, "Rss:"), 513 << 10);
        let kept: u32 = ram.read_obj(GuestAddress(0x20_0000)).unwrap();
        assert_eq!(kept, 0x1122_3344);
    }

    #[test]
    fn off_is_off() {
        let ram = ram(32, HugePages::Off);
        populate(&ram, HugePages::Off, |_| ()).unwrap();
        assert_eq!(smaps(&ram, "ShmemPmdMapped:"), 0);
        // Whoever asks for them.
        let pieces = cut(&ram, PIECE);
        let refused = pieces[0].collapse().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(smaps(&ram, "ShmemPmdMapped:"), 0);
    }

    #[test]
    fn transparent_pages_are_huge_at_once() {
        huge_where_they_can_be(&ram(65, HugePages::Transparent));
    }

    /// RAM that nobody gave advice about, of a file of so many bytes.
    fn plain_ram(size: usize, file_size: u64) -> GuestRam {
        let file = File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(file_size).unwrap();
        let place = FileOffset::new(file, 0);
        let region = aligned(size, HUGE_PAGE, || {
            let mapped = MmapRegion::from_file(place.clone(), size);
            mapped.map_err(io::Error::other)
        });
        let region = GuestRegionMmap::new(region.unwrap(), GuestAddress(0)).unwrap();
        GuestRam::from_regions(vec![region]).unwrap()
    }

    #[test]
    fn they_are_huge_where_the_kernel_was_told_nothing() {
        huge_where_they_can_be(&plain_ram(65 << 20, 65 << 20));
    }

    #[test]
    fn pages_that_cannot_be_had_are_a_failure_and_no_signal() {
        for pages in [HugePages::Off, HugePages::Transparent] {
            let mut told = Vec::new();
            // The file ends in the first piece.
            let ram = plain_ram(256 << 20, 1 << 20);
            let error = populate(&ram, pages, |done| told.push(done)).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("--memory 256M: cannot populate"), "{text}");
            assert!(told.is_empty(), "{told:?}");
        }
    }

    /// Populates 65 MiB, of which the last is no huge page.
    fn huge_where_they_can_be(ram: &GuestRam) {
        ram.write_obj(0x1122_3344_u32, GuestAddress(0x20_1000))
            .unwrap();
        populate(ram, HugePages::Transparent, |_| ()).unwrap();
        assert_eq!(smaps(ram, "Rss:"), 65 << 10);
        let kept: u32 = ram.read_obj(GuestAddress(0x20_1000)).unwrap();
        assert_eq!(kept, 0x1122_3344);
        let huge = smaps(ram, "ShmemPmdMapped:") + smaps(ram, "FilePmdMapped:");
        match why_none() {
            Some(reason) => eprintln!("SKIPPED: {reason}; {huge} KiB are huge"),
            None => assert!(huge > 0 && huge <= 64 << 10, "{huge} KiB"),
        }
    }

    /// Why this kernel makes no huge pages, if it does not.
    fn why_none() -> Option<&'static str> {
        let shared = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
        let Ok(enabled) = fs::read_to_string(shared) else {
            return Some("this kernel has no transparent huge pages for shared memory");
        };
        let release = nix::sys::utsname::uname().unwrap();
        let release = release.release().to_string_lossy().into_owned();
        let mut numbers = release.split('.').map_while(|n| n.parse::<u32>().ok());
        match (numbers.next(), numbers.next()) {
            _ if enabled.contains("[deny]") => Some("huge pages are denied to shared memory"),
            (Some(major), Some(minor)) if (major, minor) < (6, 1) => {
                Some("this kernel is older than MADV_COLLAPSE")
            }
            _ => None,
        }
    }

    #[test]
    fn pieces_tile_the_regions_in_order() {
        let layout = layout(3 << 30, 40, &BarDemand::default()).unwrap();
        // Nothing of it is touched.
        let Ok(ram) = allocate(&layout, HugePages::Off) else {
            eprintln!("SKIPPED: less than 3 GiB of memory available");
            return;
        };
        let pieces = cut(&ram, 1000 << 20);
        let lens: Vec<_> = pieces.iter().map(|piece| piece.len >> 20).collect();
        assert_eq!(lens, [1000, 1000, 48, 1000, 24]);
        let offsets: Vec<_> = pieces.iter().map(|piece| piece.offset >> 20).collect();
        assert_eq!(offsets, [0, 1000, 2000, 0, 1000]);
    }

    #[test]
    fn failures_say_what_to_do() {
        for (errno, remedy) in [
            (libc::ENOMEM, "use less --memory"),
            (libc::EFAULT, "use less --memory"),
            (libc::EHWPOISON, "restart the host"),
        ] {
            let source = io::Error::from_raw_os_error(errno);
            let error = RamError::Kernel {
                wanted: 4 << 30,
                what: failure(&source),
                source,
            };
            let text = error.to_string();
            assert!(text.starts_with("--memory 4G: cannot populate "), "{text}");
            assert!(text.contains(remedy) && !text.contains('\n'), "{text}");
        }
    }
}
