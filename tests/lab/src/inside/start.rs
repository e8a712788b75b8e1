//! `cargo lab bench start`, the inside half: from exec to the guest's first instruction, when the guest owns a virtual
//! function and so all of its memory has to be found and pinned before it begins.

use super::guest::Guest;
use super::host;
use super::moments::Moments;
use super::sysfs;
use super::vmm::{GuestSpec, Vmm};
use crate::command_line::{Bench, Pages};
use crate::error::{Context, Error, Result, fail};
use crate::events::{Event, say};
use crate::topology::VIRTUAL_FUNCTIONS;
use std::fs;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(900);
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const POOL_PAGES_PER_GIB: u32 = 512;
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage";

const CAPTION: &str = "from exec to the guest's first instruction, s (median; both by the host's CLOCK_MONOTONIC: \
    sched_process_exec, kvm_entry). 4 KiB: transparent huge pages never, Sluice with hugepages=off; transparent: \
    madvise for anonymous memory, never for shared, as Debian has it; 2 MiB: the kernel's pool. QEMU: -machine pc, \
    memory by -m alone (anonymous, merge and dump as they are by default, no prealloc), from the pool by \
    memory-backend-memfd,hugetlb=on. One vCPU, one virtual function. QEMU's first instruction is its firmware's, \
    Sluice's the kernel's";

/// Measures each case with each monitor and tells the table.
pub fn run(bench: &Bench) -> Result<()> {
    host::set_up()?;
    let mut heading = vec!["RAM, GiB".to_owned(), "pages".to_owned()];
    heading.extend(bench.vmms.iter().map(|vmm| vmm.name().to_owned()));
    let mut rows = vec![heading];
    for gib in &bench.sizes {
        for pages in bench.pages.iter().copied() {
            let mut row = vec![gib.to_string(), pages.name().to_owned()];
            for vmm in &bench.vmms {
                row.push(case(*vmm, *gib, pages, bench.times)?);
            }
            rows.push(row);
        }
    }
    say(CAPTION);
    Event::Table { rows }.tell();
    Ok(())
}

/// The median of some starts, each on a host with as much free memory as there is.
fn case(vmm: Vmm, gib: u32, pages: Pages, times: u32) -> Result<String> {
    let mut seconds = Vec::new();
    for _ in 0..times {
        pages.provide(gib)?;
        seconds.push(one_start(vmm, gib, pages)?.as_secs_f64());
    }
    pages.provide(0)?;
    let all: Vec<String> = seconds.iter().map(|time| format!("{time:.2}")).collect();
    say(format!(
        "{}, {gib} GiB, {}: {} s",
        vmm.name(),
        pages.name(),
        all.join(" ")
    ));
    seconds.sort_by(f64::total_cmp);
    Ok(format!("{:.2}", seconds[seconds.len() / 2]))
}

fn one_start(vmm: Vmm, gib: u32, pages: Pages) -> Result<Duration> {
    let spec = GuestSpec {
        memory: format!("{gib}G,hugepages={}", pages.in_option()),
        ..GuestSpec::owning(&VIRTUAL_FUNCTIONS[..1], 1)
    };
    let moments = Moments::record()?;
    let guest = Guest::start(vmm, &spec)?;
    let time = moments
        .to_first_entry(guest.pid(), PATIENCE)
        .or_else(|error| fail(format!("{}: {error}; {}", vmm.name(), guest.complaints())))?;
    guest.kill()?;
    Ok(time)
}

impl Pages {
    fn name(self) -> &'static str {
        match self {
            Self::Small => "4 KiB",
            Self::Transparent => "transparent",
            Self::Pool => "2 MiB",
        }
    }

    /// As in `hugepages=`.
    fn in_option(self) -> &'static str {
        match self {
            Self::Small => "off",
            Self::Transparent => "transparent",
            Self::Pool => "2M",
        }
    }

    /// Makes the host give such pages to a guest of this size.
    fn provide(self, gib: u32) -> Result<()> {
        let anonymous = match self {
            Self::Transparent => "madvise",
            Self::Small | Self::Pool => "never",
        };
        sysfs::write(format!("{TRANSPARENT}/enabled"), anonymous)?;
        sysfs::write(format!("{TRANSPARENT}/shmem_enabled"), "never")?;
        sysfs::write("/proc/sys/vm/drop_caches", "3")?;
        sysfs::write("/proc/sys/vm/compact_memory", "1")?;
        let wanted = match self {
            Self::Pool => gib * POOL_PAGES_PER_GIB,
            Self::Small | Self::Transparent => 0,
        };
        sysfs::write(POOL, &wanted.to_string())?;
        let got = fs::read_to_string(POOL).context(POOL)?;
        if got.trim() == wanted.to_string() {
            Ok(())
        } else {
            Err(Error::Other(format!(
                "wanted {wanted} huge pages and the host has {}",
                got.trim()
            )))
        }
    }
}
