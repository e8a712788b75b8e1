//! How much memory the host has to give.

use std::fs;
use std::path::Path;

use super::ram::HugePages;

/// What the host has to give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Supply {
    /// Bytes of ordinary memory.
    Plain(u64),
    /// A pool of huge pages: those free and not promised, and all.
    Pool { free: u64, total: u64 },
    /// No pool of that size.
    NoPool,
}

/// What there is of `pages`. Where the kernel does not say, there is enough.
pub fn supply(pages: HugePages) -> Supply {
    match pages.pool() {
        None => {
            let limit = cgroup_limit().unwrap_or(u64::MAX);
            Supply::Plain(available_memory().unwrap_or(u64::MAX).min(limit))
        }
        Some(page) => pool(page).unwrap_or(Supply::NoPool),
    }
}

/// A file of the pool of pages of that size.
pub fn pool_file(page: u64, name: &str) -> String {
    format!("/sys/kernel/mm/hugepages/hugepages-{}kB/{name}", page >> 10)
}

fn pool(page: u64) -> Option<Supply> {
    let read = |name| -> Option<u64> {
        let text = fs::read_to_string(pool_file(page, name)).ok()?;
        text.trim().parse().ok()
    };
    let free = read("free_hugepages")?.saturating_sub(read("resv_hugepages").unwrap_or(0));
    // What may be added on demand counts too.
    let surplus = read("nr_overcommit_hugepages").unwrap_or(0);
    let used = read("surplus_hugepages").unwrap_or(0);
    Some(Supply::Pool {
        free: free.saturating_add(surplus.saturating_sub(used)),
        total: read("nr_hugepages").unwrap_or(0),
    })
}

fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let swap = meminfo(&text, "SwapFree:").unwrap_or(0);
    Some(meminfo(&text, "MemAvailable:")?.saturating_add(swap))
}

fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The most that this process's control groups (version 2) let it have: a container's
/// memory, where `/proc/meminfo` tells the host's. What the group uses already is not
/// taken off, as much of it may be page cache that gives way.
fn cgroup_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    tightest(Path::new("/sys/fs/cgroup"), &groups)
}

/// The smallest `memory.max` from the group named in `groups` up to `root`.
fn tightest(root: &Path, groups: &str) -> Option<u64> {
    let group = groups.lines().find_map(|l| l.strip_prefix("0::/"))?;
    let limit = |path: &Path| -> Option<u64> {
        let text = fs::read_to_string(root.join(path).join("memory.max")).ok()?;
        text.trim().parse().ok()
    };
    Path::new(group).ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_meminfo() {
        let text = "MemTotal:  100 kB\nMemAvailable:   50 kB\n";
        assert_eq!(meminfo(text, "MemAvailable:"), Some(51200));
        assert_eq!(meminfo(text, "SwapFree:"), None);
        assert!(available_memory().unwrap() > 0);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |group: &str, limit: &str| {
            let folder = root.path().join(group);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("memory.max"), limit).unwrap();
        };
        write("a/b/c", "max\n");
        let limit = |groups| tightest(root.path(), groups);
        assert_eq!(limit("0::/a/b/c\n"), None);
        write("a/b", "1000\n");
        write("a", "2000\n");
        assert_eq!(limit("1:cpu:/x\n0::/a/b/c\n"), Some(1000));
        assert_eq!(limit("0::/a\n"), Some(2000));
        assert_eq!(limit("1:memory:/a/b\n"), None);
    }
}
