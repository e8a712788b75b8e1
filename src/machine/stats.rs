//! What a run cost: exits by cause and by region, interrupt routes, and the memory of this
//! process. Written
//! as JSON to the file that `SLUICE_STATS` names, when the run ends and at SIGUSR1.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::assigned::{Followers, SpaceUsage};
use super::bus::Bus;
use crate::interrupt::{Routing, Usage};
use crate::vcpu::Vcpu;

/// One report.
#[derive(Debug, Serialize)]
pub struct Report {
    exits: Exits,
    /// GSIs that vectors of assigned devices take.
    interrupt_routes: Usage,
    /// What assigned devices behind the guest's VT-d reach, by group of the host's IOMMU.
    shadows: Vec<SpaceUsage>,
    /// Resident memory of this process, guest RAM included, in KiB.
    rss_kib: u64,
    /// Resident memory that is not guest RAM (anonymous and file pages), in KiB.
    own_kib: u64,
}

#[derive(Debug, Serialize)]
struct Exits {
    by_kind: BTreeMap<&'static str, u64>,
    by_region: BTreeMap<String, Accesses>,
}

#[derive(Debug, Default, Serialize)]
struct Accesses {
    reads: u64,
    writes: u64,
}

/// Where reports come from and where they go.
pub struct Reporter {
    /// The file, if one is wanted.
    pub file: Option<PathBuf>,
    /// Both address spaces.
    pub buses: [Arc<Bus>; 2],
    /// Interrupt routes.
    pub routing: Arc<Routing>,
    /// What follows the guest's VT-d.
    pub followers: Option<Arc<Followers>>,
}

impl Reporter {
    /// Writes a report, if one is wanted. A failure is a line in the log.
    pub fn write(&self, vcpus: &[Arc<Vcpu>]) {
        let Some(file) = &self.file else { return };
        let written = serde_json::to_string(&self.report(vcpus))
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(file, text + "\n"));
        if let Err(error) = written {
            tracing::error!(file = %file.display(), %error, "statistics not written");
        }
    }

    fn report(&self, vcpus: &[Arc<Vcpu>]) -> Report {
        let mut by_kind = BTreeMap::new();
        for (name, count) in vcpus.iter().flat_map(|vcpu| vcpu.counts.all()) {
            *by_kind.entry(name).or_default() += count;
        }
        let by_region = self
            .buses
            .iter()
            .flat_map(|bus| bus.usages())
            .map(|usage| {
                let accesses = Accesses {
                    reads: usage.reads.load(Ordering::Relaxed),
                    writes: usage.writes.load(Ordering::Relaxed),
                };
                (usage.name.clone(), accesses)
            })
            .collect();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Report {
            exits: Exits { by_kind, by_region },
            interrupt_routes: self.routing.usage(),
            shadows: self
                .followers
                .as_ref()
                .map(|all| all.usage())
                .unwrap_or_default(),
            rss_kib: status_kib(&status, "VmRSS:"),
            own_kib: status_kib(&status, "RssAnon:") + status_kib(&status, "RssFile:"),
        }
    }
}

/// A figure of `/proc/self/status`.
fn status_kib(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_figures() {
        let status = "Name:\tsluice\nVmRSS:\t   12345 kB\nRssAnon:\t 1024 kB\n";
        assert_eq!(status_kib(status, "VmRSS:"), 12345);
        assert_eq!(status_kib(status, "RssFile:"), 0);
    }
}
