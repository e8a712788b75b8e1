//! The machine itself: processors, memory, and the devices `lspci` must see.

use super::{Check, ONE_AND_FOUR};
use crate::error::{Result, fail};
use crate::inside::rig::{Fixture, Rig};
use crate::inside::vmm::Vmm;

pub const CHECKS: &[Check] = &[
    Check {
        name: "guest-counts-its-processors",
        cpus: ONE_AND_FOUR,
        limit: 90,
        fixture: Some(Fixture::Everything),
        run: processors,
    },
    Check {
        name: "processors-idle-under-a-governor",
        cpus: ONE_AND_FOUR,
        limit: 90,
        fixture: Some(Fixture::Everything),
        run: idling,
    },
    Check {
        name: "lspci-shows-the-machine",
        cpus: ONE_AND_FOUR,
        limit: 90,
        fixture: Some(Fixture::Everything),
        run: devices,
    },
];

fn processors(rig: &mut Rig, cpus: u32) -> Result<()> {
    let guest = rig.guest(Fixture::Everything(cpus))?;
    let counted = guest.sh("nproc")?;
    if counted.trim() != cpus.to_string() {
        return fail(format!(
            "the guest counts {} processors, not {cpus}",
            counted.trim()
        ));
    }
    let online = guest.sh("cat /sys/devices/system/cpu/online /sys/devices/system/cpu/possible")?;
    let memory = guest.sh("grep MemTotal /proc/meminfo")?;
    let kib: u64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    if !(400 << 10..=512 << 10).contains(&kib) {
        return fail(format!(
            "the guest counts {kib} KiB of 512 MiB; processors online and possible: {online}"
        ));
    }
    Ok(())
}

/// Without a governor, that is, without the states in ACPI, Linux wakes up twice for each timer.
fn idling(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let guest = rig.guest(Fixture::Everything(cpus))?;
    let said = guest.sh(
        "cd /sys/devices/system/cpu && cat cpuidle/current_driver cpuidle/current_governor && sort -u cpu*/cpuidle/state1/desc && ls -d cpu*/cpuidle | wc -l",
    )?;
    let words: Vec<&str> = said.lines().collect();
    if words != ["acpi_idle", "menu", "ACPI HLT", &cpus.to_string()] {
        return fail(format!("the guest's processors idle by:\n{said}"));
    }
    Ok(())
}

fn devices(rig: &mut Rig, cpus: u32) -> Result<()> {
    let expected: &[(&str, &str)] = match rig.vmm {
        Vmm::Sluice => &[
            ("8086:29c0", "host bridge"),
            ("8086:2918", "LPC bridge"),
            ("0604", "PCIe root port"),
            ("0101", "IDE controller"),
            ("8086:100e", "e1000"),
            ("8086:10ca", "virtual function"),
        ],
        Vmm::Qemu => &[
            ("8086:1237", "host bridge"),
            ("8086:7010", "IDE controller"),
            ("8086:100e", "e1000"),
            ("8086:10ca", "virtual function"),
        ],
    };
    let listed = rig
        .guest(Fixture::Everything(cpus))?
        .sh("lspci -n && lspci")?;
    for (identity, what) in expected {
        if !listed.contains(identity) {
            return fail(format!("no {what} ({identity}) in lspci:\n{listed}"));
        }
    }
    Ok(())
}
