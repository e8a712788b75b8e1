//! Memory for guests: how large its pages can be, and how much of it may be locked.

use super::{Finding, words_of};
use crate::host::{Host, names_in};

/// Pools of huge pages, and transparent ones for shared memory, which guests' RAM is.
pub fn huge_pages(host: &Host) -> Finding {
    const TOPIC: &str = "huge pages";
    const SHARED: &str = "sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let pools: Vec<_> = pools(host).collect();
    let free = pools.iter().any(|pool| pool.free > 0);
    let mut what: Vec<_> = pools.iter().map(Pool::to_string).collect();
    let shared = host.text(SHARED);
    let shared = shared.as_deref().and_then(chosen);
    what.push(format!("transparent: {}", shared.unwrap_or("none")));
    let what = what.join("; ");
    match shared {
        Some("never" | "deny") if !free => Finding::warn(
            TOPIC,
            format!(
                "{what}: {} on 4 KiB pages, which take longer to look up",
                who(shared)
            ),
            format!("`echo advise > /{SHARED}`, or reserve some for --memory SIZE,hugepages=2M"),
        ),
        _ => Finding::ok(TOPIC, what),
    }
}

/// Who gets none. Memory that is populated for a device is made huge all the same.
fn who(shared: Option<&str>) -> &'static str {
    match shared {
        Some("never") => "guests with no device (all, before Linux 6.1) run",
        _ => "guests run",
    }
}

/// A pool of huge pages.
struct Pool {
    page_kib: u64,
    free: u64,
    total: u64,
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = match self.page_kib {
            kib if kib >= 1 << 20 => format!("{} GiB", kib >> 20),
            kib => format!("{} MiB", kib >> 10),
        };
        match self.total {
            0 => write!(f, "{size}: no pool"),
            total => write!(f, "{size}: {} of {total} free", self.free),
        }
    }
}

fn pools(host: &Host) -> impl Iterator<Item = Pool> {
    const POOLS: &str = "sys/kernel/mm/hugepages";
    let pool = |name: String| -> Option<Pool> {
        let page_kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let count = |file: &str| host.text(&format!("{POOLS}/{name}/{file}"))?.parse().ok();
        let promised: u64 = count("resv_hugepages").unwrap_or(0);
        Some(Pool {
            page_kib: page_kib.parse().ok()?,
            free: count("free_hugepages")?.saturating_sub(promised),
            total: count("nr_hugepages")?,
        })
    };
    let names = names_in(&host.root.join(POOLS)).unwrap_or_default();
    let mut pools: Vec<_> = names.into_iter().filter_map(pool).collect();
    pools.sort_by_key(|pool| pool.page_kib);
    pools.into_iter()
}

/// The word in brackets of a file that lists its choices.
fn chosen(choices: &str) -> Option<&str> {
    let word = choices
        .split_whitespace()
        .find(|word| word.starts_with('['))?;
    Some(word.trim_matches(['[', ']']))
}

/// How much memory this process may lock; the RAM of a guest with a device is all locked.
pub fn lock_limit(host: &Host) -> Finding {
    const TOPIC: &str = "locked memory";
    /// No guest that one would give a device has less.
    const LEAST_KIB: u64 = 128 << 10;
    if may_lock_anything(host) {
        return Finding::ok(TOPIC, "no limit for this user (CAP_IPC_LOCK)");
    }
    let Some(limit) = hard_limit_kib(host) else {
        return Finding::ok(TOPIC, "no limit");
    };
    let what = format!("{limit} KiB: a guest with a device can have no more memory than that");
    let remedy = "raise it to the guest's memory: `ulimit -l KIB` as root, LimitMEMLOCK= in a \
                  systemd unit, or a memlock line in /etc/security/limits.conf";
    let memory = host.text("proc/meminfo").unwrap_or_default();
    let memory: Option<u64> = words_of(&memory, "MemTotal")
        .next()
        .and_then(|n| n.parse().ok());
    match memory {
        _ if limit < LEAST_KIB => Finding::fail(TOPIC, what, remedy),
        Some(memory) if limit < memory => Finding::warn(TOPIC, what, remedy),
        _ => Finding::ok(TOPIC, what),
    }
}

fn may_lock_anything(host: &Host) -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let status = host.text("proc/self/status").unwrap_or_default();
    let effective = words_of(&status, "CapEff").next();
    effective
        .and_then(|set| u64::from_str_radix(set, 16).ok())
        .is_some_and(|set| set & CAP_IPC_LOCK != 0)
}

/// What the limit may be raised to, which Sluice does; `None` if there is no limit.
fn hard_limit_kib(host: &Host) -> Option<u64> {
    let limits = host.text("proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max locked memory"))?;
    let bytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(bytes >> 10)
}
