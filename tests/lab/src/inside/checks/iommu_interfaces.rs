//! The interfaces to the host's IOMMU: type1 groups, and iommufd with VFIO device files. And mediated devices, which go
//! through either.

use super::assignment::{ping_over_vf, use_e1000e, use_nvme};
use super::display::{MAPPING_BARS, use_display};
use super::drivers::{use_physical_function, use_xhci};
use super::guest_iommu::strict_through_iommufd;
use super::interrupts::nobody_complains;
use super::operator::refused;
use super::{Check, reset};
use crate::error::{Context, Error, Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::interrupts;
use crate::inside::mediated::{MTTY, own_file, with_mtty};
use crate::inside::rig::Rig;
use crate::inside::vmm::GuestSpec;
use crate::inside::{host, sysfs};
use crate::topology::{BOCHS_DISPLAY, E1000E, NVME, PHYSICAL_FUNCTION, VIRTUAL_FUNCTIONS, XHCI};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

const fn check(name: &'static str, limit: u64, run: fn(&mut Rig, u32) -> Result<()>) -> Check {
    Check {
        name,
        cpus: &[1],
        limit,
        fixture: None,
        run,
    }
}

/// Those that want a kernel with iommufd.
pub const ON_TAILORED: &[Check] = &[
    check("tailored-host-kernel", 30, tailored_host_kernel),
    check("iommufd-drivers-do-io", 300, |rig, cpus| {
        drivers(rig, cpus, "iommufd", ",iommu=iommufd")
    }),
    check("type1-drivers-do-io", 300, |rig, cpus| {
        drivers(rig, cpus, "type1", ",iommu=type1")
    }),
    check("iommufd-physical-function", 240, |rig, cpus| {
        physical_function(rig, cpus, "iommufd", "")
    }),
    check("type1-physical-function", 240, |rig, cpus| {
        physical_function(rig, cpus, "type1", ",iommu=type1")
    }),
    check("iommufd-functions-of-one-device", 240, |rig, cpus| {
        reset::twins_together(rig, cpus)
    }),
    check("iommufd-mtty-10000-interrupts", 400, |rig, cpus| {
        mtty(rig, cpus, "iommufd", "", "")
    }),
    check("type1-mtty-10000-interrupts", 400, |rig, cpus| {
        mtty(rig, cpus, "type1", ",iommu=type1", "")
    }),
    check("iommufd-mtty-without-msi", 400, |rig, cpus| {
        mtty(rig, cpus, "iommufd", "", "pci=nomsi")
    }),
    check("iommufd-behind-a-vtd", 300, strict_through_iommufd),
    check("device-file-inherited", 240, inherited),
    check("type1-where-there-is-no-iommufd", 180, fallback),
    check("error-interfaces-to-the-iommu", 60, wrong_lines),
];

/// The tailored kernel has what it was built for.
fn tailored_host_kernel(_: &mut Rig, _: u32) -> Result<()> {
    for path in [
        "/dev/iommu",
        "/dev/vfio/vfio",
        "/dev/vfio/devices/vfio0",
        "/dev/kvm",
        "/sys/class/mtty/mtty/mdev_supported_types/mtty-2",
    ] {
        if !Path::new(path).exists() {
            return fail(format!("the tailored host kernel shows no {path}"));
        }
    }
    Ok(())
}

/// Boots a guest and sees that its devices were opened through this interface.
pub(super) fn boot_through(rig: &mut Rig, interface: &str, spec: &GuestSpec) -> Result<Guest> {
    rig.only_sluice()?;
    let guest = rig.boot(spec)?;
    let log = guest.complaints();
    if log.contains(&format!("devices are opened through {interface}")) {
        Ok(guest)
    } else {
        fail(format!("not through {interface}: {log}"))
    }
}

/// Five devices in one guest, each under its stock driver.
fn drivers(rig: &mut Rig, cpus: u32, interface: &str, options: &'static str) -> Result<()> {
    let with_all = |rig: &mut Rig| {
        let spec = GuestSpec {
            assign: vec![VIRTUAL_FUNCTIONS[0], NVME, E1000E, XHCI, BOCHS_DISPLAY],
            assign_options: options,
            extra_cmdline: MAPPING_BARS,
            ..GuestSpec::new(cpus)
        };
        let mut guest = boot_through(rig, interface, &spec)?;
        ping_over_vf(&mut guest)?;
        use_nvme(&mut guest)?;
        use_e1000e(&mut guest)?;
        use_xhci(&mut guest)?;
        use_display(&mut guest)?;
        nobody_complains(&mut guest)?;
        expect_success(guest.power_off()?)
    };
    host::with_device(XHCI, || host::with_device(BOCHS_DISPLAY, || with_all(rig)))
}

fn physical_function(
    rig: &mut Rig,
    cpus: u32,
    interface: &str,
    options: &'static str,
) -> Result<()> {
    // A guest of a test before may have a virtual function still.
    rig.stop();
    host::with_physical_function(|| {
        let spec = GuestSpec {
            assign: vec![PHYSICAL_FUNCTION],
            assign_options: options,
            ..GuestSpec::new(cpus)
        };
        let mut guest = boot_through(rig, interface, &spec)?;
        use_physical_function(&mut guest)?;
        expect_success(guest.power_off()?)
    })
}

const INTERRUPTS: u64 = 10_000;

/// The card's driver is the kernel's own for serial ports. It sleeps until the byte that it has sent comes in, so one
/// interrupt that is lost is one byte that is. The card has no MSI capability, so the pin it is.
fn mtty(
    rig: &mut Rig,
    cpus: u32,
    interface: &str,
    options: &str,
    extra_cmdline: &'static str,
) -> Result<()> {
    rig.stop();
    with_mtty(|| {
        let spec = GuestSpec {
            more_assigns: vec![format!("mdev={MTTY}{options}")],
            extra_cmdline,
            ..GuestSpec::new(cpus)
        };
        let mut guest = boot_through(rig, interface, &spec)?;
        let port = serial_port(&mut guest)?;
        // Open, or the driver gives the interrupt back and its count is gone.
        guest.sh(&format!(
            "sleep 1000 <>/dev/{port} >/dev/null 2>&1 & sleep 1; grep -w {port} /proc/interrupts"
        ))?;
        let words = ["IO-APIC", port.as_str()];
        let before = interrupts(&mut guest, &words)?;
        guest.sh_within(
            &format!("lab agent serial-echo /dev/{port} {INTERRUPTS}"),
            Duration::from_secs(300),
        )?;
        let taken = interrupts(&mut guest, &words)? - before;
        if taken < INTERRUPTS {
            return fail(format!(
                "only {taken} interrupts for {INTERRUPTS} bytes:\n{}",
                guest.sh("cat /proc/interrupts")?
            ));
        }
        nobody_complains(&mut guest)?;
        expect_success(guest.power_off()?)
    })
}

/// The first port of the card, as the guest calls it.
fn serial_port(guest: &mut Guest) -> Result<String> {
    let found = guest.sh(
        "for device in /sys/bus/pci/devices/*; do grep -q 0x4348 $device/vendor && find $device/ -name 'ttyS*'; done; true",
    )?;
    let names = found.lines().filter_map(|line| line.rsplit('/').next());
    let first = names.map(str::to_owned).min();
    first.ok_or_else(|| Error::Other(format!("the guest made no serial port of it: {found}")))
}

/// A file as a program is given it that was started with it open.
fn inheritable(path: &Path) -> Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .path(path)?;
    nix::unistd::dup(file).context("dup")
}

/// Lets the work find none of these.
fn without<T>(paths: &[&str], work: impl FnOnce() -> Result<T>) -> Result<T> {
    let hidden = |path: &str| format!("{path}.hidden");
    for path in paths {
        fs::rename(path, hidden(path)).context(*path)?;
    }
    let outcome = work();
    for path in paths {
        fs::rename(hidden(path), path).context(*path)?;
    }
    outcome
}

/// The guest's monitor can open nothing of VFIO itself.
fn inherited(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.stop();
    let device = own_file(&sysfs::device(VIRTUAL_FUNCTIONS[0]))?;
    let (device, iommu) = (inheritable(&device)?, inheritable(Path::new("/dev/iommu"))?);
    let spec = GuestSpec {
        more_assigns: vec![format!(
            "fd={},iommufd={}",
            device.as_raw_fd(),
            iommu.as_raw_fd()
        )],
        ..GuestSpec::new(cpus)
    };
    let guest = without(&["/dev/iommu", "/dev/vfio"], || {
        boot_through(rig, "iommufd", &spec)
    });
    // What is left of the monitor's in this process would keep the device open.
    drop((device, iommu));
    let mut guest = guest?;
    ping_over_vf(&mut guest)?;
    expect_success(guest.power_off()?)?;
    // It was given back: it can be had again.
    let mut guest = boot_through(
        rig,
        "iommufd",
        &GuestSpec::owning(&VIRTUAL_FUNCTIONS[..1], cpus),
    )?;
    ping_over_vf(&mut guest)?;
    expect_success(guest.power_off()?)
}

fn fallback(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.stop();
    let spec = GuestSpec::owning(&VIRTUAL_FUNCTIONS[..1], cpus);
    let mut guest = without(&["/dev/iommu"], || boot_through(rig, "type1", &spec))?;
    ping_over_vf(&mut guest)?;
    expect_success(guest.power_off()?)
}

fn wrong_lines(rig: &mut Rig, _: u32) -> Result<()> {
    let [first, second] = VIRTUAL_FUNCTIONS;
    let wrong = format!("{first},iommu=vfio");
    refused(
        rig,
        &["--assign", &wrong],
        &["--assign", "'vfio' is none of auto, iommufd, type1"],
    )?;
    let (a, b) = (
        format!("{first},iommu=iommufd"),
        format!("{second},iommu=type1"),
    );
    refused(
        rig,
        &["--assign", &a, "--assign", &b],
        &["iommu=iommufd", "iommu=type1", "make them the same"],
    )?;
    refused(rig, &["--assign", "fd=900"], &["900 is not open"])?;
    refused(rig, &["--assign", "fd=0"], &["0 is no VFIO device"])?;
    let open = inheritable(&own_file(&sysfs::device(first))?)?;
    let twice = format!("fd={}", open.as_raw_fd());
    refused(
        rig,
        &["--assign", &twice, "--assign", &twice],
        &[&format!("{twice} is given twice")],
    )?;
    drop(open);
    let nobody = format!("mdev={MTTY}");
    refused(rig, &["--assign", &nobody], &[MTTY, "no mediated device"])?;
    without(&["/dev/iommu"], || {
        refused(
            rig,
            &["--assign", &a],
            &["no /dev/iommu", "modprobe iommufd"],
        )
    })
}
