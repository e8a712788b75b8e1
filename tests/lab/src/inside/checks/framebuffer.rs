//! A display adapter: a large BAR that is memory, and what its stock driver shows there.

use super::Check;
use crate::error::{Context, Result, fail};
use crate::inside::guest::{Guest, expect_success};
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
    Check {
        name: "framebuffer-shows-what-is-drawn",
        cpus: &[2],
        limit: 180,
        fixture: None,
        run: |rig, cpus| host::with_device(BOCHS_DISPLAY, || framebuffer(rig, cpus)),
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

/// Drawn below what the text console may still write to.
fn framebuffer(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&owning_display(cpus, ""))?;
    guest.sh("modprobe bochs && n=0; until [ -c /dev/fb0 ]; do n=$((n+1)); [ $n -lt 100 ] || break; sleep 0.1; done; [ -c /dev/fb0 ]")?;
    let stride = attribute(&mut guest, "stride")?;
    let rows = guest.sh("cut -d, -f2 /sys/class/graphics/fb0/virtual_size")?;
    let rows: usize = number(&rows)?;
    let (skipped, drawn) = (rows / 2, rows / 4);
    guest.sh(&format!(
        "dd if=/dev/urandom of=/tmp/given bs={stride} count={drawn} 2>&1"
    ))?;
    let given = sha256_in_guest(&mut guest, "/tmp/given")?;
    guest.sh(&format!(
        "dd if=/tmp/given of=/dev/fb0 bs={stride} seek={skipped} 2>&1"
    ))?;
    guest.sh(&format!(
        "dd if=/dev/fb0 of=/tmp/taken bs={stride} skip={skipped} count={drawn} 2>&1"
    ))?;
    let taken = sha256_in_guest(&mut guest, "/tmp/taken")?;
    if given != taken {
        return fail(format!("drew {given} on /dev/fb0, which has {taken}"));
    }
    let (from, count) = (skipped * stride, drawn * stride);
    on_screen(&mut guest, from, count, &given)?;
    expect_success(guest.power_off()?)?;
    let left = left_in_bar(rig, from, count)?;
    if left != given {
        return fail(format!("{given} was drawn, and the host finds {left}"));
    }
    Ok(())
}

/// Waits until the driver has brought to the device what was drawn on its copy.
fn on_screen(guest: &mut Guest, from: usize, count: usize, wanted: &str) -> Result<()> {
    let mut shown = String::new();
    for _ in 0..20 {
        guest.sh_within(
            &format!(
                "{FIND_DISPLAY} && lab agent map-read $d/resource0 /tmp/all {}",
                from + count
            ),
            PATIENCE,
        )?;
        guest.sh(&format!("tail -c {count} /tmp/all >/tmp/taken"))?;
        shown = sha256_in_guest(guest, "/tmp/taken")?;
        if shown == wanted {
            return Ok(());
        }
        guest.sh("sleep 0.2")?;
    }
    fail(format!(
        "{wanted} was drawn, and BAR 0 has {shown}:\n{}",
        guest.sh("dmesg | grep -i -e bochs -e drm -e fb0")?
    ))
}

fn attribute(guest: &mut Guest, name: &str) -> Result<usize> {
    number(&guest.sh(&format!("cat /sys/class/graphics/fb0/{name}"))?)
}

fn number(said: &str) -> Result<usize> {
    said.trim()
        .parse()
        .or_else(|_| fail(format!("not a number: {said}")))
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
