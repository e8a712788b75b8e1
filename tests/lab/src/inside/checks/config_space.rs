//! What a guest sees of an assigned device's config space, BARs and option ROM, and what the operator changes of it.

use super::Check;
use crate::error::{Context, Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{interrupts, network_up, ping_all, wait_for_block_device};
use crate::inside::media::sha256;
use crate::inside::rig::Rig;
use crate::inside::sysfs;
use crate::inside::vmm::GuestSpec;
use crate::topology::{E1000E, E1000E_GUEST_ADDRESS, E1000E_PEER, NVME};
use std::fs;

const fn check(name: &'static str, run: fn(&mut Rig, u32) -> Result<()>) -> Check {
    Check {
        name,
        cpus: &[2],
        limit: 120,
        fixture: None,
        run,
    }
}

pub const CHECKS: &[Check] = &[
    check("config-space-shows-no-garbage", no_garbage),
    check("option-rom-is-the-hosts", option_rom),
    check("assigned-without-mmap", without_mmap),
    check("assigned-with-hidden-capabilities", hidden_capabilities),
];

/// The directory of the 82574L in the guest's sysfs, as `$d`.
const FIND_E1000E: &str =
    "d=$(dirname $(grep -l 0x10d3 /sys/bus/pci/devices/*/device)) && [ -d $d ]";

fn spec(cpus: u32, assign_options: &'static str) -> GuestSpec {
    GuestSpec {
        assign: vec![E1000E],
        assign_options,
        ..GuestSpec::new(cpus)
    }
}

fn ping(guest: &mut Guest) -> Result<String> {
    let interface = network_up(guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    ping_all(guest, 20, 0.05, E1000E_PEER)?;
    Ok(interface)
}

/// What lspci says of registers that make no sense.
const GARBAGE: [&str; 6] = ["<?>", "<chain", "unknown", "unreadable", "!!!", "rev ff"];

fn no_garbage(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let mut guest = rig.boot(&GuestSpec {
        assign: vec![E1000E, NVME],
        ..GuestSpec::new(cpus)
    })?;
    guest.sh("modprobe -a nvme e1000e")?;
    wait_for_block_device(&mut guest, "nvme0n1")?;
    for (device, wanted) in [
        (
            "8086:10d3",
            ["Express", "Advanced Error Reporting", "Serial Number"],
        ),
        ("1b36:0010", ["Express", "MSI-X", "Power Management"]),
    ] {
        let said = guest.sh(&format!("lspci -vvv -d {device}"))?;
        let plain = said.to_lowercase();
        if let Some(found) = GARBAGE.iter().find(|word| plain.contains(**word)) {
            return fail(format!("lspci finds {found}:\n{said}"));
        }
        if let Some(missing) = wanted.iter().find(|word| !said.contains(**word)) {
            return fail(format!("lspci does not find {missing}:\n{said}"));
        }
    }
    expect_success(guest.power_off()?)
}

/// Read while the guest runs: a device that nobody has open sleeps, and its ROM with it.
fn option_rom(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let mut guest = rig.boot(&spec(cpus, ""))?;
    let seen = guest.sh(&format!(
        "{FIND_E1000E} && echo 1 > $d/rom && sha256sum < $d/rom && wc -c < $d/rom && echo 0 > $d/rom"
    ))?;
    let on_host = sysfs::device(E1000E).join("rom");
    sysfs::write(&on_host, "1")?;
    let image = fs::read(&on_host).path(&on_host)?;
    sysfs::write(&on_host, "0")?;
    if image.len() < 512 || image.get(..2) != Some(&[0x55, 0xaa]) {
        return fail(format!("the host reads no ROM: {} bytes", image.len()));
    }
    let copy = rig.file("option.rom");
    fs::write(&copy, &image).path(&copy)?;
    let wanted = sha256(&copy)?;
    if !seen.contains(&wanted) {
        return fail(format!(
            "the ROM has {} bytes and {wanted} on the host; in the guest {seen}",
            image.len()
        ));
    }
    ping(&mut guest)?;
    expect_success(guest.power_off()?)
}

fn without_mmap(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let mut guest = rig.boot(&spec(cpus, ",no-mmap"))?;
    ping(&mut guest)?;
    let maps = fs::read_to_string(format!("/proc/{}/maps", guest.pid()));
    let maps = maps.context("the monitor's memory map")?;
    if let Some(line) = maps.lines().find(|line| line.contains("vfio-device")) {
        return fail(format!("a BAR is mapped: {line}"));
    }
    expect_success(guest.power_off()?)
}

fn hidden_capabilities(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let mut guest = rig.boot(&spec(cpus, ",hide=msix+aer,rom=off"))?;
    let interface = ping(&mut guest)?;
    let said = guest.sh("lspci -vvv -d 8086:10d3")?;
    for gone in ["MSI-X", "Advanced Error Reporting", "Expansion ROM"] {
        if said.contains(gone) {
            return fail(format!("{gone} is not hidden:\n{said}"));
        }
    }
    // Its driver takes what it then finds best.
    let by_msix = interrupts(&mut guest, &["MSIX", &interface])?;
    if by_msix > 0 || interrupts(&mut guest, &[&interface])? == 0 {
        return fail(format!(
            "the hidden MSI-X is used, or nothing else is:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    expect_success(guest.power_off()?)
}
