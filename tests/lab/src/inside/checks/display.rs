//! A display adapter: a large BAR that is memory.

use super::Check;
use crate::error::{Context, Result, fail};
use crate::inside::guest::expect_success;
use crate::inside::host;
use crate::inside::linux::sha256_in_guest;
use crate::inside::media::sha256;
use crate::inside::rig::Rig;
use crate::inside::sysfs;
use crate::inside::vmm::GuestSpec;
use crate::mapped::Mapped;
use crate::topology::BOCHS_DISPLAY;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

pub const CHECKS: &[Check] = &[
    Check {
        name: "large-bar-is-the-devices-memory",
        cpus: &[2],
        limit: 180,
        fixture: None,
        run: |rig, cpus| host::with_device(BOCHS_DISPLAY, || large_bar(rig, cpus, "")),
    },
    Check {
        name: "large-bar-without-mmap",
        cpus: &[1],
        limit: 180,
        fixture: None,
        run: |rig, cpus| {
            rig.only_sluice()?;
            host::with_device(BOCHS_DISPLAY, || large_bar(rig, cpus, ",no-mmap"))
        },
    },
];

const PATIENCE: Duration = Duration::from_secs(90);
/// The display's directory in the guest's sysfs, as `$d`. The kernel lets a BAR that a driver has be mapped with
/// `iomem=relaxed` only.
const FIND_DISPLAY: &str =
    "d=$(dirname $(grep -l 0x1234 /sys/bus/pci/devices/*/vendor)) && [ -d $d ]";

fn owning_display(cpus: u32, assign_options: &'static str) -> GuestSpec {
    GuestSpec {
        assign_options,
        extra_cmdline: "iomem=relaxed",
        ..GuestSpec::owning(&[BOCHS_DISPLAY], cpus)
    }
}

/// What the guest writes is what the guest reads, and what the host finds when it has the device back: nothing that
/// resets this device clears its memory.
fn large_bar(rig: &mut Rig, cpus: u32, assign_options: &'static str) -> Result<()> {
    // Every access that is trapped takes its time.
    let blocks = if assign_options.is_empty() { 256 } else { 1 };
    let mut guest = rig.boot(&owning_display(cpus, assign_options))?;
    guest.sh(&format!(
        "{FIND_DISPLAY} && echo 1 >$d/enable && dd if=/dev/urandom of=/tmp/given bs=64k count={blocks} 2>&1"
    ))?;
    let given = sha256_in_guest(&mut guest, "/tmp/given")?;
    guest.sh_within("lab agent map-write $d/resource0 /tmp/given", PATIENCE)?;
    let count = blocks * 65536;
    guest.sh_within(
        &format!("lab agent map-read $d/resource0 /tmp/taken {count}"),
        PATIENCE,
    )?;
    let taken = sha256_in_guest(&mut guest, "/tmp/taken")?;
    if given != taken {
        return fail(format!(
            "the guest wrote {given} to BAR 0 and reads {taken}: {}",
            guest.sh(
                "cmp -l /tmp/given /tmp/taken | head -n 3; cmp -l /tmp/given /tmp/taken | wc -l"
            )?
        ));
    }
    expect_success(guest.power_off()?)?;
    let left = left_in_bar(rig, 0, count)?;
    if left != given {
        return fail(format!(
            "the guest wrote {given} to BAR 0, and the host reads {left}"
        ));
    }
    Ok(())
}

/// The SHA-256 of what is in BAR 0 now that no guest has the device.
fn left_in_bar(rig: &Rig, from: usize, count: usize) -> Result<String> {
    sysfs::unbind(BOCHS_DISPLAY)?;
    let enable = sysfs::device(BOCHS_DISPLAY).join("enable");
    sysfs::write(&enable, "1")?;
    let bar: PathBuf = sysfs::device(BOCHS_DISPLAY).join("resource0");
    let content = Mapped::open(&bar)?.read(from + count);
    sysfs::write(&enable, "0")?;
    let copy = rig.file("bar");
    fs::write(&copy, content.get(from..).unwrap_or_default()).path(&copy)?;
    sha256(&copy)
}
