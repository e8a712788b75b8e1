//! Guest RAM: one sealed memfd, mapped at the two places the [`Layout`] gives it.
//!
//! A memfd can be handed to the kernel's passthrough interfaces, to another process and to
//! a later incarnation of this one. It is sealed at its size, so nobody who has it can pull
//! a page from under us.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use devices::dma::GuestRam;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

use super::align::{HUGE_PAGE, aligned};
use super::layout::{HIGH_RAM_START, Layout};
use super::size::display_size;
use super::supply::{Supply, pool_file, supply};

/// What pages back guest RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub enum HugePages {
    /// 4 KiB pages only.
    Off,
    /// Huge pages where the kernel finds them, 4 KiB pages elsewhere. Costs nothing, so it is
    /// the default. Memory that is [populated](super::populate()) is looked for at once; for
    /// other memory the kernel looks as it is used, if
    /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` is `advise` or more.
    #[default]
    Transparent,
    /// 2 MiB pages from the kernel's pool.
    Size2M,
    /// 1 GiB pages from the kernel's pool.
    Size1G,
}

impl HugePages {
    /// The size of the pages of the kernel's pool, if RAM comes from one.
    pub const fn pool(self) -> Option<u64> {
        match self {
            Self::Off | Self::Transparent => None,
            Self::Size2M => Some(2 << 20),
            Self::Size1G => Some(1 << 30),
        }
    }

    /// As it is written in `--memory SIZE,hugepages=…`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Transparent => "transparent",
            Self::Size2M => "2M",
            Self::Size1G => "1G",
        }
    }
}

/// Why there is no guest RAM.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// More than the host has.
    #[error(
        "--memory {}: this host has only {} of memory available; use less --memory or end something",
        display_size(*.wanted), display_size(*.available & !0xf_ffff)
    )]
    DoesNotFit {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes available.
        available: u64,
    },
    /// The kernel has no pool of that page size.
    #[error(
        "--memory hugepages={0}: this host's kernel has no {0} pages; boot it with hugepagesz={0} or use hugepages=transparent"
    )]
    NoPool(&'static str),
    /// The kernel's pool is too small.
    #[error(
        "--memory {},hugepages={name}: needs {needed} free pages of {name} and the host has {free}; write {} to {} or use hugepages=transparent",
        display_size(*.wanted), .total + (.needed - .free), pool_file(*.page, "nr_hugepages")
    )]
    PoolTooSmall {
        /// Bytes asked for.
        wanted: u64,
        /// The page size's name.
        name: &'static str,
        /// The page size.
        page: u64,
        /// Pages needed.
        needed: u64,
        /// Pages free and not promised to anyone.
        free: u64,
        /// Pages in the pool.
        total: u64,
    },
    /// The kernel refused.
    #[error("--memory {}: cannot {what}", display_size(*.wanted))]
    Kernel {
        /// Bytes asked for.
        wanted: u64,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Makes the RAM of a machine laid out as `layout`. Nothing is populated yet, but pages of
/// a pool are reserved: they cannot be missing later.
pub fn allocate(layout: &Layout, pages: HugePages) -> Result<GuestRam, RamError> {
    let wanted = layout.memory_size();
    fits(wanted, pages, supply(pages))?;

    let failed = |what| {
        move |source: io::Error| RamError::Kernel {
            wanted,
            what,
            source,
        }
    };
    let file = Arc::new(sealed_memfd(wanted, pages).map_err(failed("create guest memory"))?);
    let low = (0, 0, layout.low_ram);
    let high = (HIGH_RAM_START, layout.low_ram, layout.high_ram);
    let mut regions = Vec::new();
    for (address, offset, size) in [low, high].into_iter().filter(|r| r.2 != 0) {
        let region = map(&file, offset, size, pages).map_err(failed("map guest memory"))?;
        regions.extend(GuestRegionMmap::new(region, GuestAddress(address)));
    }
    GuestRam::from_regions(regions)
        .map_err(io::Error::other)
        .map_err(failed("map guest memory"))
}

fn sealed_memfd(size: u64, pages: HugePages) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC
        | MFdFlags::MFD_ALLOW_SEALING
        | match pages {
            HugePages::Off | HugePages::Transparent => MFdFlags::empty(),
            HugePages::Size2M => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
            HugePages::Size1G => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_1GB,
        };
    let file = File::from(memfd_create(c"sluice-ram", flags)?);
    file.set_len(size)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

fn map(file: &Arc<File>, offset: u64, size: u64, pages: HugePages) -> io::Result<MmapRegion> {
    let size = usize::try_from(size).map_err(io::Error::other)?;
    // A pool's pages are reserved by the mapping; ordinary pages are not accounted, as the
    // check before was against what is truly there.
    let reserve = if pages.pool().is_some() {
        0
    } else {
        libc::MAP_NORESERVE
    };
    let map = || {
        MmapRegionBuilder::new(size)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | reserve)
            .with_file_offset(FileOffset::from_arc(file.clone(), offset))
            .with_hugetlbfs(pages.pool().is_some())
            .build()
            .map_err(io::Error::other)
    };
    let region = match pages {
        HugePages::Transparent => aligned(size, HUGE_PAGE, map)?,
        // Small ones go anywhere, and a pool's are put where they fit.
        HugePages::Off | HugePages::Size2M | HugePages::Size1G => map()?,
    };
    advise(&region, libc::MADV_DONTDUMP);
    match pages {
        HugePages::Off => advise(&region, libc::MADV_NOHUGEPAGE),
        HugePages::Transparent => advise(&region, libc::MADV_HUGEPAGE),
        HugePages::Size2M | HugePages::Size1G => {}
    }
    Ok(region)
}

/// Advice is a wish: a kernel built without the feature refuses it and all works on.
fn advise(region: &MmapRegion, advice: libc::c_int) {
    // SAFETY: the range is a live mapping of ours and these kinds of advice do not touch
    // its contents.
    let result = unsafe { libc::madvise(region.as_ptr().cast(), region.size(), advice) };
    if result != 0 {
        tracing::debug!(advice, error = %io::Error::last_os_error(), "madvise of guest memory");
    }
}

fn fits(wanted: u64, pages: HugePages, supply: Supply) -> Result<(), RamError> {
    let (page, name) = (pages.pool().unwrap_or(4096), pages.name());
    match supply {
        Supply::Plain(available) if wanted > available => {
            Err(RamError::DoesNotFit { wanted, available })
        }
        Supply::NoPool => Err(RamError::NoPool(name)),
        Supply::Pool { free, total } if wanted.div_ceil(page) > free => {
            Err(RamError::PoolTooSmall {
                wanted,
                name,
                page,
                needed: wanted.div_ceil(page),
                free,
                total,
            })
        }
        Supply::Plain(_) | Supply::Pool { .. } => Ok(()),
    }
}

/// The file behind guest RAM and the offset of a region in it.
pub fn backing(region: &GuestRegionMmap) -> Option<(std::os::fd::RawFd, u64)> {
    region
        .file_offset()
        .map(|f| (f.file().as_raw_fd(), f.start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::{BarDemand, layout};
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    fn small() -> Layout {
        layout(32 << 20, 40, &BarDemand::default()).unwrap()
    }

    #[test]
    fn ram_is_one_sealed_file() {
        let ram = allocate(&small(), HugePages::Transparent).unwrap();
        let offset = ram.iter().next().unwrap().file_offset().unwrap().clone();
        assert!(offset.file().set_len(1 << 20).is_err(), "shrunk");
        assert!(offset.file().set_len(64 << 20).is_err(), "grown");
        ram.write_obj(0x1122_3344u32, GuestAddress(0x10_0000))
            .unwrap();
        let mut bytes = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(offset.file(), &mut bytes, 0x10_0000).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 0x1122_3344);
    }

    #[test]
    fn high_ram_is_the_rest_of_the_same_file() {
        let l = layout(3 << 30, 40, &BarDemand::default()).unwrap();
        if let Supply::Plain(available) = supply(HugePages::Off)
            && available < 4 << 30
        {
            eprintln!("SKIPPED: less than 4 GiB of memory available");
            return;
        }
        let ram = allocate(&l, HugePages::Off).unwrap();
        let regions: Vec<_> = ram.iter().map(|r| (r.start_addr().0, r.len())).collect();
        assert_eq!(regions, [(0, 2 << 30), (HIGH_RAM_START, 1 << 30)]);
        let high = ram.iter().nth(1).unwrap();
        assert_eq!(backing(high).unwrap().1, 2 << 30);
        ram.write_obj(7u8, GuestAddress(HIGH_RAM_START + (1 << 30) - 1))
            .unwrap();
        assert!(ram.write_obj(7u8, GuestAddress(2 << 30)).is_err());
    }

    #[test]
    fn memory_that_does_not_fit_is_one_line_naming_the_flag() {
        let huge = layout(1 << 46, 52, &BarDemand::default()).unwrap();
        let error = allocate(&huge, HugePages::Off).unwrap_err().to_string();
        assert!(
            error.starts_with("--memory 64T: this host has only "),
            "{error}"
        );
        assert!(!error.contains('\n'));
    }

    #[test]
    fn a_small_pool_says_what_to_write_where() {
        let supply = Supply::Pool {
            free: 10,
            total: 30,
        };
        let error = fits(64 << 20, HugePages::Size2M, supply)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "--memory 64M,hugepages=2M: needs 32 free pages of 2M and the host has 10; write 52 to /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages or use hugepages=transparent"
        );
        assert!(fits(20 << 20, HugePages::Size2M, supply).is_ok());
        let error = fits(1 << 30, HugePages::Size1G, Supply::NoPool).unwrap_err();
        assert!(error.to_string().contains("hugepagesz=1G"));
    }

    #[test]
    fn pages_of_a_pool_work_or_are_refused_clearly() {
        match allocate(&small(), HugePages::Size2M) {
            Ok(ram) => ram.write_obj(1u8, GuestAddress(0)).unwrap(),
            Err(RamError::PoolTooSmall { .. } | RamError::NoPool(_)) => {
                eprintln!("SKIPPED: no pool of 2 MiB pages on this host");
            }
            Err(other) => panic!("{other}"),
        }
    }
}
