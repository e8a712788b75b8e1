//! `cargo lab bench vtd`, the inside half: what a VT-d of the guest's own costs it. With assigned devices in strict
//! mode, where every transfer is mapped before and unmapped after and the unit hears of both; with emulated ones as
//! Linux has it by itself.

use super::bench::{Figure, Table, one_digit, two_digits, whole};
use super::guest::Guest;
use super::host;
use super::linux::{ide_up, network_up, wait_for_block_device};
use super::measure::{self, megabytes_a_second};
use super::media::Disk;
use super::rig::Rig;
use super::sysfs;
use super::vmm::{GuestSpec, Network, Vmm};
use crate::error::Result;
use crate::events::say;
use crate::topology::{
    NVME, PF_ADDRESS, PHYSICAL_FUNCTION, TAP, TAP_ADDRESS, TAP_GUEST_ADDRESS, VF_GUEST_ADDRESS,
    VIRTUAL_FUNCTIONS,
};

/// Measures each monitor without one and with one, and tells the table.
pub fn run(vmms: &[Vmm]) -> Result<()> {
    host::set_up()?;
    let mut table = Table::default();
    for vmm in vmms {
        for (iommu, suffix) in [(None, ""), (Some("vtd"), ", VT-d")] {
            let heading = format!("{}{suffix}", vmm.name());
            let figures = measure_one(*vmm, iommu, &heading)?;
            for (what, figure) in &figures {
                say(format!("{heading}: {what}: {figure}"));
            }
            table.column(heading, figures);
        }
    }
    table.tell();
    Ok(())
}

fn measure_one(vmm: Vmm, iommu: Option<&'static str>, heading: &str) -> Result<Vec<Figure>> {
    let rig = Rig::new(vmm)?;
    say(format!("{heading}: assigned devices"));
    let spec = |cmdline| GuestSpec {
        iommu,
        extra_cmdline: if iommu.is_some() { cmdline } else { "" },
        ..GuestSpec::new(1)
    };
    let mut guest = Guest::boot(
        vmm,
        &GuestSpec {
            assign: vec![VIRTUAL_FUNCTIONS[0], NVME],
            ..spec("intel_iommu=on iommu.strict=1")
        },
    )?;
    let mut figures = assigned(&mut guest)?;
    guest.power_off()?;
    say(format!("{heading}: emulated devices"));
    let mut guest = Guest::boot(
        vmm,
        &GuestSpec {
            disk: Some(Disk {
                read_only: false,
                ..Disk::random(rig.file("bench.img"), 64 << 20)?
            }),
            network: Some(Network::Tap(TAP)),
            ..spec("intel_iommu=on")
        },
    )?;
    figures.extend(emulated(&mut guest)?);
    guest.power_off()?;
    Ok(figures)
}

/// Their data does not pass the monitor: behind a VT-d, all of its exits are about mappings.
fn assigned(guest: &mut Guest) -> Result<Vec<Figure>> {
    network_up(guest, "igbvf", VF_GUEST_ADDRESS)?;
    guest.sh("modprobe nvme")?;
    wait_for_block_device(guest, "nvme0n1")?;
    let nvme = measure::reads(guest, "nvme0n1", "4k", 2000)?;
    let large = measure::reads(guest, "nvme0n1", "1M", 100)?;
    let interface = sysfs::interface(PHYSICAL_FUNCTION)?;
    let sent = measure::udp_out(guest, 4000, PF_ADDRESS, &interface)?;
    Ok(vec![
        (
            "NVMe: 4 KiB reads a second, a map and an unmap each",
            whole(nvme.rate()),
        ),
        ("NVMe: exits per 4 KiB read", two_digits(nvme.exits_each())),
        ("NVMe: 1 MiB reads, MiB/s", one_digit(large.rate())),
        ("VF: small UDP packets sent a second", whole(sent.rate())),
        (
            "VF: exits per UDP packet sent",
            two_digits(sent.exits_each()),
        ),
    ])
}

fn emulated(guest: &mut Guest) -> Result<Vec<Figure>> {
    ide_up(guest)?;
    network_up(guest, "e1000", TAP_GUEST_ADDRESS)?;
    let small = measure::reads(guest, "sda", "4k", 400)?;
    // No larger: whether one command carries a MiB depends on where in its memory the guest wants it.
    let large = measure::reads(guest, "sda", "64k", 400)?;
    let sent = measure::udp_out(guest, 4000, TAP_ADDRESS, measure::tap())?;
    let out = measure::tcp_out(guest, 16_000_000)?;
    let into = measure::tcp_in(guest, 16_000_000)?;
    Ok(vec![
        (
            "IDE: exits per 4 KiB DMA read",
            one_digit(small.exits_each()),
        ),
        ("IDE: 4 KiB reads a second", whole(small.rate())),
        ("IDE: 64 KiB reads, MiB/s", one_digit(large.rate() / 16.0)),
        (
            "e1000: exits per small UDP packet sent",
            two_digits(sent.exits_each()),
        ),
        ("e1000: small UDP packets sent a second", whole(sent.rate())),
        (
            "e1000: TCP out of the guest, MB/s",
            one_digit(megabytes_a_second(&out)),
        ),
        (
            "e1000: TCP into the guest, MB/s",
            one_digit(megabytes_a_second(&into)),
        ),
    ])
}
