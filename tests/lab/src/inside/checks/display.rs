//! A display adapter: a large BAR that is memory, and the picture in it.

use super::Check;
use crate::error::{Context, Error, Result, fail};
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
        name: "framebuffer-shows-what-the-guest-draws",
        cpus: &[2],
        limit: 180,
        fixture: None,
        run: |rig, cpus| host::with_device(BOCHS_DISPLAY, || framebuffer(rig, cpus)),
    },
];

const PATIENCE: Duration = Duration::from_secs(90);
/// The guest's kernel lets a BAR that a driver has be mapped with this only.
pub(super) const MAPPING_BARS: &str = "iomem=relaxed";
/// The display's directory in the guest's sysfs, as `$d`.
const FIND_DISPLAY: &str =
    "d=$(dirname $(grep -l 0x1234 /sys/bus/pci/devices/*/vendor)) && [ -d $d ]";

fn owning_display(cpus: u32, assign_options: &'static str) -> GuestSpec {
    GuestSpec {
        assign_options,
        extra_cmdline: MAPPING_BARS,
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

/// Lines drawn, and how many times as many are above them, where a text console has its cursor.
const LINES: usize = 64;
const BLOCKS_ABOVE: usize = 4;

/// A picture in BAR 0.
struct Picture {
    from: usize,
    count: usize,
    sha256: String,
}

fn framebuffer(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&owning_display(cpus, ""))?;
    let drawn = draw(&mut guest)?;
    expect_success(guest.power_off()?)?;
    let left = left_in_bar(rig, drawn.from, drawn.count)?;
    if left != drawn.sha256 {
        return fail(format!(
            "the guest drew {}, and the host finds {left} in BAR 0 at {:#x}",
            drawn.sha256, drawn.from
        ));
    }
    Ok(())
}

/// Its driver binds and makes a framebuffer of it, which shows what is drawn. The guest must have [`MAPPING_BARS`].
pub(super) fn use_display(guest: &mut Guest) -> Result<()> {
    draw(guest).map(drop)
}

/// What a program writes to the driver's framebuffer is, pixel by pixel, where the adapter's registers say it shows from.
/// Many lines are one write: Linux 6.12 takes a write of exactly one line for one of no pixels, and never shows it.
fn draw(guest: &mut Guest) -> Result<Picture> {
    guest.sh("modprobe bochs; n=0; until [ -e /dev/fb0 ]; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.1; done")?;
    let stride = number(&guest.sh("cat /sys/class/graphics/fb0/stride")?)?;
    let count = LINES * stride;
    guest.sh(&format!(
        "dd if=/dev/urandom of=/tmp/given bs={count} count=1 2>&1 && \
         dd if=/tmp/given of=/dev/fb0 bs={count} seek={BLOCKS_ABOVE} 2>&1"
    ))?;
    let sha256 = sha256_in_guest(guest, "/tmp/given")?;
    // The driver copies what changed a little later.
    std::thread::sleep(Duration::from_secs(2));
    let from = shown_from(guest)? + BLOCKS_ABOVE * count;
    guest.sh_within(
        &format!(
            "lab agent map-read $d/resource0 /tmp/bar {} >/dev/null && tail -c {count} /tmp/bar >/tmp/shown",
            from + count
        ),
        PATIENCE,
    )?;
    let shown = sha256_in_guest(guest, "/tmp/shown")?;
    if sha256 != shown {
        return fail(format!(
            "the guest drew {sha256}, and {shown} is in BAR 0 at {from:#x}"
        ));
    }
    Ok(Picture {
        from,
        count,
        sha256,
    })
}

/// Where in BAR 0 the picture starts: the Bochs VBE registers (QEMU's docs/specs/standard-vga.rst), 16 bits each at
/// 0x500 in BAR 2, of which 3 is bits per pixel, 6 the pixels in a line of memory, 8 and 9 the first pixel and line.
fn shown_from(guest: &mut Guest) -> Result<usize> {
    let said = guest.sh(&format!(
        "{FIND_DISPLAY} && lab agent map-read $d/resource2 /tmp/registers 4096 >/dev/null && \
         hexdump -v -s 1280 -n 20 -e '/2 \"%u \"' /tmp/registers"
    ))?;
    let registers: Vec<usize> = said
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    match registers[..] {
        [_, _, _, depth, _, _, width, _, x, y] => Ok((y * width + x) * depth.div_ceil(8)),
        _ => fail(format!("the display's registers: {said}")),
    }
}

fn number(said: &str) -> Result<usize> {
    let said = said.trim();
    said.parse()
        .map_err(|_| Error::Other(format!("no number: {said}")))
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
