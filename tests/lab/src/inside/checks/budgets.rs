//! What a guest may cost: the limits of issue 2, held on every run. `cargo lab bench` tells the figures themselves.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::guest::Guest;
use crate::inside::linux::{ide_up, network_up};
use crate::inside::measure::{self, megabytes_a_second};
use crate::inside::rig::{Fixture, Rig};
use crate::inside::vmm::Vmm;
use crate::topology::{
    PF_ADDRESS, PHYSICAL_FUNCTION, TAP, TAP_ADDRESS, TAP_GUEST_ADDRESS, VF_GUEST_ADDRESS,
};

pub const CHECKS: &[Check] = &[
    Check {
        name: "budget-ide-18-exits-per-dma-read",
        cpus: &[1],
        limit: 120,
        fixture: Some(Fixture::Everything),
        run: ide,
    },
    Check {
        name: "budget-e1000-2-exits-per-udp-packet",
        cpus: &[1],
        limit: 120,
        fixture: Some(Fixture::Everything),
        run: udp,
    },
    Check {
        name: "budget-e1000-0.3-exits-per-tcp-segment",
        cpus: &[1],
        limit: 180,
        fixture: Some(Fixture::Everything),
        run: tcp,
    },
    Check {
        name: "budget-e1000-tcp-5-times-qemus-out-and-twice-in",
        cpus: &[1],
        limit: 300,
        fixture: Some(Fixture::Everything),
        run: tcp_beside_qemu,
    },
    Check {
        name: "budget-vf-packets-cost-no-exit",
        cpus: &[1],
        limit: 120,
        fixture: Some(Fixture::Everything),
        run: vf,
    },
    Check {
        name: "budget-idle-25-exits-a-second",
        cpus: &[1],
        limit: 300,
        fixture: Some(Fixture::Everything),
        run: idle,
    },
    Check {
        name: "budget-10-mib-resident",
        cpus: &[1],
        limit: 90,
        fixture: Some(Fixture::Everything),
        run: resident,
    },
];

/// CPU of an idle guest in a second. On a slow machine the guest and KVM alone take more.
const IDLE_MILLISECONDS: f64 = 20.0;
/// What is as much, give or take the noise.
const AS_MANY_AS_QEMU: f64 = 1.1;

fn ide(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let guest = rig.guest(Fixture::Everything(cpus))?;
    ide_up(guest)?;
    let cost = measure::reads(guest, "sda", "4k", 300)?;
    within("exits per 4 KiB DMA read", cost.exits_each(), 18.0)
}

fn udp(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let guest = rig.guest(Fixture::Everything(cpus))?;
    network_up(guest, "e1000", TAP_GUEST_ADDRESS)?;
    let sent = measure::udp_out(guest, 4000, TAP_ADDRESS, TAP)?;
    within("exits per small UDP packet sent", sent.exits_each(), 2.0)
}

fn tcp(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let guest = rig.guest(Fixture::Everything(cpus))?;
    network_up(guest, "e1000", TAP_GUEST_ADDRESS)?;
    let out = measure::tcp_out(guest, 16_000_000)?;
    within("exits per TCP segment sent", out.exits_each(), 0.3)
}

fn tcp_beside_qemu(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let (out, into) = tcp_both_ways(rig.guest(Fixture::Everything(cpus))?)?;
    let mut other = rig.boot_with(Vmm::Qemu, Fixture::Everything(cpus))?;
    let (of_qemu_out, of_qemu_in) = tcp_both_ways(&mut other)?;
    at_least("MB/s out over TCP", out, of_qemu_out * 5.0)?;
    at_least("MB/s in over TCP", into, of_qemu_in * 2.0)
}

/// MB/s out and in: the best of a few rounds, as whatever else runs can only slow them down.
fn tcp_both_ways(guest: &mut Guest) -> Result<(f64, f64)> {
    network_up(guest, "e1000", TAP_GUEST_ADDRESS)?;
    let mut best = (0f64, 0f64);
    for _ in 0..3 {
        let out = measure::tcp_out(guest, 8_000_000)?;
        let into = measure::tcp_in(guest, 8_000_000)?;
        best = (
            best.0.max(megabytes_a_second(&out)),
            best.1.max(megabytes_a_second(&into)),
        );
    }
    Ok(best)
}

/// Thousands of packets, and no more exits than the same seconds spent idle, give or take a driver's watchdog.
fn vf(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let guest = rig.guest(Fixture::Everything(cpus))?;
    network_up(guest, "igbvf", VF_GUEST_ADDRESS)?;
    let interface = crate::inside::sysfs::interface(PHYSICAL_FUNCTION)?;
    let sent = measure::udp_out(guest, 8000, PF_ADDRESS, &interface)?;
    within("exits per VF packet", sent.exits_each(), 0.05)
}

fn idle(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let (exits, processor) = at_rest(rig.guest(Fixture::Everything(cpus))?)?;
    within("exits a second, idle", exits, 25.0)?;
    if processor <= IDLE_MILLISECONDS {
        return Ok(());
    }
    // Too many, or a slow machine: QEMU tells which.
    let mut other = rig.boot_with(Vmm::Qemu, Fixture::Everything(cpus))?;
    let (_, of_qemu) = at_rest(&mut other)?;
    within(
        "milliseconds of CPU a second, idle, where QEMU takes about as many",
        processor,
        of_qemu * AS_MANY_AS_QEMU,
    )
}

/// Exits, and milliseconds of CPU, a second of a guest with both NICs up: their drivers wake up every other second.
fn at_rest(guest: &mut Guest) -> Result<(f64, f64)> {
    network_up(guest, "e1000", TAP_GUEST_ADDRESS)?;
    network_up(guest, "igbvf", VF_GUEST_ADDRESS)?;
    measure::idle(guest)
}

fn resident(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let mib = measure::resident_mib(rig.guest(Fixture::Everything(cpus))?)?;
    within("MiB resident beyond the guest's memory", mib, 10.0)
}

fn at_least(what: &str, figure: f64, limit: f64) -> Result<()> {
    if figure >= limit {
        Ok(())
    } else {
        fail(format!(
            "{what}: {figure:.2}; it is to be at least {limit:.2}"
        ))
    }
}

fn within(what: &str, figure: f64, limit: f64) -> Result<()> {
    if figure <= limit {
        Ok(())
    } else {
        fail(format!("{what}: {figure:.2}; the limit is {limit}"))
    }
}
